"""Whole trials on a pretend device: nothing lies on the wrong one, and no step waits for it but once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretend import NAME, WAITS, pretending
from tests.trainables.conftest import small
from tests.trainables.test_distill import lasting, metrics, train
from trainables import device, distill
from trainables.config import DistillConfig, InputError
from trainables.device import named_device, present_device
from trainables.preflight import prepare
from trainables.trial_folder import TrialFolder

STEPS = 4
KINDS: dict[str, dict[str, Any]] = {
    "latent, sequential, Llama": {"kv_method": "right_crop"},
    "latent, Jacobi, GPT-2, flat": {
        "latent_iterations": 2, "model_name": "tiny-gpt2", "alignment_mode": "flat", "kv_method": "full",
    },
    "same sequence, Llama, R-KV": {"student": "same_sequence", "kv_method": "rkv"},
    "same sequence, GPT-2, whole chains": {
        "student": "same_sequence", "model_name": "tiny-gpt2", "kv_method": "full", "k_space": "post_rope",
    },
    "random selection, accumulated, another row's teacher": {
        "kv_method": "random", "gradient_accumulation_steps": 2, "shuffle_teacher": True,
    },
    "its own teacher, sequential": {"teacher_name": "self", "kv_method": "full"},
    "its own teacher, Jacobi, GPT-2": {
        "teacher_name": "self", "latent_iterations": 1, "model_name": "tiny-gpt2", "kv_method": "rkv",
    },
    "teacher to student, frozen": {"kv_direction": "teacher_to_student_frozen", "kv_method": "rkv"},
    "teacher to student, joint": {
        "kv_direction": "teacher_to_student_joint", "student": "same_sequence", "kv_method": "right_crop",
    },
    "no distillation": {"kv_weight": 0, "codi_weight": 0, "student": "same_sequence"},
}  # fmt: skip


def config_of(folder: Path, kind: str, **changes: Any) -> DistillConfig:
    base: dict[str, Any] = {
        "max_steps": STEPS, "logging_steps": 2, "eval_steps": 2, "save_steps": 2, "eval_size": 6,
        "eval_batch_size": 4, "subset_size": 48, "threads": 1, "output_dir": str(folder),
    }  # fmt: skip
    return small(**{**base, **KINDS[kind], **changes})


def assert_alike(one: Path, other: Path) -> None:
    """The same rows, to float32's rounding; a probe that solves near-singular systems, more loosely."""
    for (step, split, a), (_, _, b) in zip(metrics(one), metrics(other), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            close = 1e-3 if name == "probe_r2" or name.startswith("kv_cka") else 2e-5
            assert b[name] == pytest.approx(value, rel=close, abs=close), (step, split, name)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Of every training step, the lines at which the host waited for the device, and how often."""
    found: list[dict[str, int]] = []
    step = distill._Run._step

    def counted(*args: Any) -> dict[str, float]:
        WAITS.clear()
        metrics = step(*args)
        found.append(dict(WAITS))
        return metrics

    monkeypatch.setattr(distill._Run, "_step", counted)
    return found


def assert_one_a_step(waits: list[dict[str, int]]) -> None:
    """For the loss terms, and nothing else."""
    assert [sum(found.values()) for found in waits] == [1] * len(waits), waits
    assert all(line.startswith("distill.py:") for found in waits for line in found)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if n > 3 else []) for n, kind in enumerate(KINDS)]
)
def test_a_whole_trial_on_a_device_ends_as_on_the_cpu_and_as_when_resumed(
    tmp_path: Path, kind: str, waits: list[dict[str, int]]
) -> None:
    train(config_of(tmp_path / "cpu", kind))
    waits.clear()

    with pretending():
        there = config_of(tmp_path / "there", kind, device=NAME)
        whole = train(there)
        before = metrics(tmp_path / "there")
        middle = TrialFolder(tmp_path / "there").checkpoint(2)
        resumed = train(there, resume_from=str(middle))

    assert (whole["status"], whole["device"]) == ("completed", NAME)
    assert len(waits) == STEPS + STEPS // 2
    assert_one_a_step(waits)
    assert_alike(tmp_path / "cpu", tmp_path / "there")
    assert lasting(resumed) == lasting(whole)
    assert metrics(tmp_path / "there") == before


@pytest.mark.parametrize("student", ["latent", "same_sequence"])
def test_a_teacher_cache_is_made_and_read_on_a_device(
    tmp_path: Path, student: str, waits: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"student": student, "kv_method": "right_crop", "device": NAME}
    plain, cached = (
        config_of(tmp_path / name, "latent, sequential, Llama", teacher_cache=cache, **changes)
        for name, cache in (("without", None), ("with", str(tmp_path / "cache")))
    )

    with pretending():
        train(plain)
        prepare(cached, lambda line: None)
        monkeypatch.setattr("trainables.assemble.load_teacher", lambda *_: pytest.fail("it was loaded"))
        train(cached)

    assert_alike(tmp_path / "without", tmp_path / "with")
    assert_one_a_step(waits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS][:5])
def test_a_device_without_float64_trains_and_evaluates(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "NO_FLOAT64", [NAME])

    with pretending(float64=False):
        result = train(config_of(tmp_path, kind, device=NAME))

    assert result["status"] == "completed"
    assert all(map(math.isfinite, result["final"].values()))


BAD_DEVICES = ["meta", "cpu; x", "", "gpu", "cuda:-1", "cuda:300", "CUDA", "cuda:", "0", "cpu,cuda"]


@pytest.mark.parametrize("name", BAD_DEVICES)
def test_a_device_that_torch_cannot_compute_on_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match="is none that torch can compute on: give auto, cpu, cuda"):
        named_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "xpu"])
def test_a_device_that_this_machine_lacks_is_refused_here_and_may_be_elsewhere(name: str) -> None:
    assert str(named_device(name)) == name
    if getattr(torch, name.partition(":")[0]).is_available():
        pytest.skip(f"{name} is here")
    with pytest.raises(InputError, match=f"--device {name}: torch finds none on this machine"):
        present_device(name)


def test_the_cpu_and_auto_are_everywhere() -> None:
    assert present_device("cpu") == torch.device("cpu")
    assert present_device("auto").type in ("cpu", "cuda")
    with pytest.raises(InputError, match="this machine has 1 of them"):
        present_device("cpu:1")
