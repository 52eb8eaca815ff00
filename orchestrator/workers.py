"""What is asked of a worker with a trial's resources, before the trials: a machine on which they will run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.spec import Resources
from orchestrator.trials import Cell
from orchestrator.watch import GIB
from trainables.config import DistillConfig, InputError

Ask = Callable[..., Any]
"""Calls a function where Ray is at hand, with what follows."""


def placed(config: DistillConfig, resources: Resources) -> DistillConfig:
    """The config as its trials run it, wherever that is: a trial that is given a GPU computes on it."""
    device = config.device if config.device != "auto" else "cuda" if resources.gpus else "cpu"
    return replace(config, device=device, threads=resources.cpus)


def in_workers(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], resources: Resources
) -> list[Any]:
    """The function's results, each call in a worker with a trial's resources, which ends after it.

    So neither a teacher nor its GPU memory stays behind. A call whose worker dies is made again.
    """
    import ray

    limits = {"memory": int(resources.memory_gib * GIB)} if resources.memory_gib else {}
    remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_calls=1, **limits)(function)
    results: list[Any] = ray.get([remote.remote(*call) for call in calls])
    return results


def check_devices(cells: Sequence[Cell], resources: Resources, ask: Ask | None) -> None:
    """Refuse a device that is not there for torch where trials will run: by a worker, or here without Ray."""
    arms = {placed(cell.config, resources).device: cell.arm for cell in reversed(cells)}
    for device, arm in arms.items():
        if device == "cpu":
            continue
        lack = _lack(device) if ask is None else ask(in_workers, _lack, [(device,)], resources)[0]
        if lack is not None:
            raise InputError(f"arm {arm!r}: {lack}")


def _lack(device: str) -> str | None:
    """Why a trial cannot compute on the device in this process, if it cannot."""
    from trainables.device import present_device

    try:
        present_device(device)
    except InputError as error:
        return str(error)
    return None
