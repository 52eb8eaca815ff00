"""Where a trial computes: which device, whether it is there, and what must not make the host wait for it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from trainables.config import Dtype, InputError

NO_FLOAT64 = ["mps"]
"""Kinds of devices that have no float64."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def named_device(name: str) -> torch.device:
    """The device that a --device names, wherever it is; `auto` is a GPU where torch has one here.

    Raises InputError where torch knows no such device, or none that could compute.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.get_device_module(device)
        if str(device) != name:  # an index beyond 127 becomes another one
            raise ValueError
    except (RuntimeError, ValueError):
        raise InputError(
            f"--device {name!r} is none that torch can compute on: give auto, cpu, cuda, or cuda:1 for the "
            "second GPU."
        ) from None
    return device


def present_device(name: str) -> torch.device:
    """The same, where this machine has it; otherwise InputError says what there is. Nothing is allocated."""
    device = named_device(name)
    module = torch.get_device_module(device)
    count = module.device_count() if module.is_available() else 0
    if (device.index or 0) >= count:
        there = f"this machine has {count} of them" if count else "torch finds none on this machine"
        raise InputError(
            f"--device {name}: {there} (torch {torch.__version__}): give auto or cpu, or install a build of "
            "torch for the device."
        )
    return device


def gpus_here() -> int:
    """GPUs of this machine that torch can compute on."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy without waiting for the device; what computes with the copy is queued behind it there."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()  # from pageable memory CUDA copies only while the host waits
    return x.to(device, non_blocking=device.type != "mps")  # which may read memory that is gone by then


def widest(device: torch.device) -> torch.dtype:
    """The type that long sums are taken in: float64, and float32 on a device that has none."""
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64


def widened(x: Tensor) -> Tensor:
    """The tensor in the widest type of its device."""
    return x.to(widest(x.device))


def autocast(dtype: Dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context of a trial's forward passes, by its --dtype. Losses and aligners stay outside of it."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[dtype])
