"""Faults for real trials, and the three laws that must hold after any of them.

The objective here is the real distillation of a tiny student. A file `fates.json` in the storage names what
befalls which trial, once, in the middle of step HURT: {"flat-seed0": "flipped"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from orchestrator import attempts
from orchestrator.child import Objective
from orchestrator.launch import Summary, run
from orchestrator.spec import spec_from
from tests.fakes import experiment
from trainables.config import DistillConfig
from trainables.trial_folder import TrialFolder

if TYPE_CHECKING:
    from trainables.distill import Report

HURT = 7
ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "base": {
        "model_name": "tiny-llama",
        "teacher_name": "tiny-teacher",
        "dataset": "arithmetic",
        "student": "same_sequence",
        "subset_size": 64,
        "batch_size": 8,
        "max_steps": 8,
        "logging_steps": 1,
        "eval_steps": 4,
        "eval_size": 8,
        "save_steps": 2,
    },
    "resources": {"max_failures": 1},
}
FAULTY = Objective(distill="tests.orchestrator.faults:distill")
ARMS = {
    "flat": {"alignment_mode": "flat"},
    "structured": {"alignment_mode": "structured"},
    "wild": {"alignment_mode": "flat", "lr": 1e9},
}
SEEDS = [0, 1, 2]
Curves = dict[str, list[dict[str, Any]]]


def distill(config: DistillConfig, report: Report, resume_from: str | None = None) -> dict[str, Any]:
    """The real distillation, until fate strikes."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from trainables.distill import distill as real

    folder = TrialFolder(config.output_dir)
    (folder.path / "pid").write_text(str(os.getpid()))
    register_optimizer_step_pre_hook(lambda *_: _strike(folder))
    return real(config, report, resume_from)


def _strike(folder: TrialFolder) -> None:
    """Called in the middle of every step: its gradients are there, the parameters are not yet changed."""
    fate = _fates(folder.path).get(folder.path.name.rpartition("-")[0])
    if fate is None or (folder.path / "hurt").exists():
        return
    if max((row["step"] for row in folder.read_metrics()), default=0) + 1 == HURT:
        (folder.path / "hurt.part").write_text(str(os.getpid()))
        (folder.path / "hurt.part").rename(folder.path / "hurt")
        FATES[fate](folder.path)


def _fates(folder: Path) -> dict[str, str]:
    path = folder.parents[2] / "fates.json"
    fates: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return fates


def _hold(folder: Path) -> None:
    while not (folder.parents[2] / "go").exists():
        time.sleep(0.05)


def _die(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _eat(folder: Path) -> None:
    """Use a quarter of a GiB more, and again, until something stops it, or 6 GiB are used."""
    eaten = []
    while len(eaten) < 4 * 6:
        eaten.append(b"x" * 2**28)
        time.sleep(0.1)
    raise RuntimeError("nothing stopped it")


def _fail_to_allocate(folder: Path) -> None:
    import torch

    torch.empty(2**50)


def _fill(folder: Path) -> None:
    """Leave no byte free on the storage, until somebody deletes the file `ballast`."""
    fill(folder.parents[2])


def fill(storage: Path) -> None:
    """Write until nothing more fits."""
    with (storage / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def _flip(folder: Path) -> None:
    newest = TrialFolder(folder).checkpoints()[0] / "optimizer.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    _die(folder)


FATES: dict[str, Callable[[Path], None]] = {
    "held": _hold,
    "fills": _fill,
    "hangs": lambda folder: time.sleep(3600),
    "eats": _eat,
    "cannot allocate": _fail_to_allocate,
    "flipped": _flip,
}


def small(**changes: Any) -> dict[str, Any]:
    """An experiment of real trials, each of seconds."""
    return experiment(**{**SMALL, **changes})


def launch(place: Path, address: str, objective: Objective = FAULTY, **changes: Any) -> Summary:
    """Run such an experiment in this process, as far as fate lets it."""
    spec = spec_from(small(**changes), "test")
    return run(spec, storage=place, address=address, objective=objective)


def unbroken(place: Path, **changes: Any) -> Curves:
    """The curves of such an experiment where nothing goes wrong: plain distillation, without Ray."""
    return curves(launch(place, "serial", Objective(), **changes).folder)


def curves(folder: Path) -> Curves:
    """Every trial's rows to the bit, without the clock."""
    return {
        path.name: [
            {**row, "wall_s": None, "metrics": _exact(row["metrics"])}
            for row in TrialFolder(path).read_metrics()
        ]
        for path in (folder / "trials").iterdir()
        if path.is_dir()
    }


def _exact(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name: value.hex() for name, value in metrics.items()}


def finished(folder: Path) -> dict[Path, tuple[bytes, int, int]]:
    """result.json of every finished trial: its bytes, when it was written, and how many attempts it took."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns, len(attempts.read(path.parent)))
        for path in folder.glob("trials/*/result.json")
    }


def check_laws(
    fault: str,
    folder: Path,
    before: Mapping[Path, tuple[bytes, int, int]],
    expected: Curves,
    *,
    unfinished: int | None = 0,
) -> pd.DataFrame:
    """No finished trial lost or run again, every planned trial has its row, and every curve its bits.

    Returns the last row of every planned trial. `unfinished` trials have no result; None if any number may.
    """
    now = finished(folder)
    cells = json.loads((folder / "plan.json").read_text())["cells"]
    last = pd.read_parquet(folder / "runs.parquet").drop_duplicates("trial_id", keep="last")
    ours = curves(folder)
    done = [cell["trial_id"] for cell in cells if folder / "trials" / cell["trial_id"] / "result.json" in now]
    equal = [trial for trial in done if ours[trial] == expected[trial]]
    counts = {
        "finished before": len(before),
        "lost": sum(path not in now for path in before),
        "rerun": sum(path in now and now[path] != old for path, old in before.items()),
        "rows missing": len({cell["trial_id"] for cell in cells} - set(last["trial_id"])),
        "bit-equal": f"{len(equal)}/{len(done)}",
    }
    print(f"LAWS {fault}: {counts}")
    assert (counts["lost"], counts["rerun"], counts["rows missing"]) == (0, 0, 0)
    assert equal == done
    assert unfinished is None or len(done) == len(cells) - unfinished
    assert last["status"].isin(attempts.RESULTS).sum() == len(done)
    return last


DRIVER = """
import json, sys
from pathlib import Path
from tests.orchestrator.faults import launch
place, address, changes = sys.argv[1:]
sys.exit(launch(Path(place), address, **json.loads(changes)).exit_code)
"""
STARTED: list[subprocess.Popen[bytes]] = []
"""Drivers that no test may leave behind; a fixture ends them."""


def start_driver(
    place: Path, address: str, inside: Sequence[str] = (), **changes: Any
) -> subprocess.Popen[bytes]:
    """`kvtune run` in a process group of its own, its output in driver.log."""
    place.mkdir(exist_ok=True)
    with (place / "driver.log").open("ab") as log:
        process = subprocess.Popen(
            [*inside, sys.executable, "-c", DRIVER, str(place), address, json.dumps(changes)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    STARTED.append(process)
    return process


def tear(folder: Path) -> None:
    """Cut the newest checkpoint's largest file in two, as a crash while it is written would."""
    largest = max(TrialFolder(folder).checkpoints()[0].iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def trial(folder: Path, name: str) -> Path:
    """The folder of the trial whose name starts so; it must be there."""
    return next(folder.glob(f"trials/{name}-*"))


def ends(folder: Path, name: str) -> list[str | None]:
    """How every attempt of a trial ended."""
    return [attempt.status for attempt in attempts.read(trial(folder, name))]


def resumed_from(folder: Path, name: str) -> int:
    """The step from which the last attempt of a finished trial went on."""
    step: int = json.loads((trial(folder, name) / "result.json").read_text())["resumed_from_step"]
    return step


def hurt(folder: Path, name: str) -> int:
    """The process in which fate struck this trial, once it has."""
    wait_until(lambda: [*folder.glob(f"trials/{name}-*/hurt")], seconds=400)
    return int(next(folder.glob(f"trials/{name}-*/hurt")).read_text())


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def wait_until(holds: Callable[[], Any], seconds: float = 180) -> None:
    """Poll until something holds; generous, for machines are loaded."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
