"""How well the slots are used: trials of a fixed length on two slots, kvtune against plain Ray Tune.

A trial's work is a sleep, so that it takes as long on a busy machine as on an idle one and all else that is
measured is overhead; with --burn it is a fixed number of float64 matrix products, timed in each trial, and
the ideal follows from the median of those times. Both sides start a Ray of their own with two CPUs. Ours runs
every trial in a fresh process; plain Tune's function trainable imports torch, transformers and the Llama
modelling code in each trial's actor, as a training function has to.

    python -m benchmarks.slots                      12 trials of 5 s
    python -m benchmarks.slots --seconds 60 --ours  overall efficiency at 60 s trials, 6 min
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from orchestrator.child import Objective
from orchestrator.launch import run
from orchestrator.spec import spec_from
from orchestrator.tuning import import_quietly
from trainables.config import DistillConfig
from trainables.trial_folder import TrialFolder

SLOTS = 2
PRODUCTS_PER_S = 120
"""Matrix products that stand for a second under --burn; what they really take is measured."""


@dataclass(frozen=True)
class Timing:
    """When a run began and ended, and when each trial's work did."""

    began: float
    ended: float
    trials: list[tuple[float, float]]
    """(start, end) of each trial's work."""

    @property
    def work_s(self) -> float:
        return statistics.median(end - start for start, end in self.trials)

    @property
    def steady(self) -> float:
        """The ideal over the measured time from the first trial's end to the last one's."""
        ends = sorted(end for _, end in self.trials)
        return (ceil(len(ends) / SLOTS) - 1) * self.work_s / (ends[-1] - ends[0])

    @property
    def overall(self) -> float:
        """The ideal over the whole run, with the start of Ray and of the workers."""
        return ceil(len(self.trials) / SLOTS) * self.work_s / (self.ended - self.began)


def work(seconds: float, burn: bool) -> tuple[float, float]:
    """Do a trial's work; when it began and ended."""
    began = time.time()
    if burn:
        import numpy as np

        matrix = np.full((256, 256), 1 / 256)
        for _ in range(round(seconds * PRODUCTS_PER_S)):
            matrix = matrix @ matrix
    else:
        time.sleep(seconds)
    return began, time.time()


def distill(config: DistillConfig, report: Any, resume_from: str | None = None) -> dict[str, Any]:
    """A trial that keeps its folder's contract around the work; lr holds its seconds, epochs the kind."""
    folder = TrialFolder(config.output_dir)
    folder.claim(config)
    times = work(config.lr, burn=config.epochs == 2)
    row = {
        "step": 1,
        "epoch": 1.0,
        "tokens": 1,
        "wall_s": times[1] - times[0],
        "split": "train",
        "n_items": 1,
    }
    folder.append_metrics({**row, "metrics": {"loss": 1.0}})
    report({**row, "metrics": {"loss": 1.0}})
    (folder.path / "times.json").write_text(json.dumps(times))
    result = {"status": "completed", "config_hash": config.hash(), "completed_steps": 1}
    folder.write_result(result)
    return result


def accept(config: DistillConfig, progress: object = None) -> None:
    """Nothing to check, nothing to prepare."""


def ours(trials: int, seconds: float, burn: bool, place: Path) -> Timing:
    """The trials by kvtune's own launch, in an experiment folder like any other."""
    objective = Objective(
        distill="benchmarks.slots:distill",
        check="benchmarks.slots:accept",
        prepare="benchmarks.slots:accept",
        preload=(*Objective().preload, "benchmarks.slots"),
    )
    values = {
        "name": "slots",
        "base": {
            "model_name": "tiny-llama",
            "dataset": "arithmetic",
            "lr": seconds,
            "epochs": 2.0 if burn else 1.0,
        },
        "arms": {"flat": {"alignment_mode": "flat"}, "structured": {"alignment_mode": "structured"}},
        "seeds": list(range(trials // 2)),
        "analysis": {"baseline": "flat"},
    }
    began = time.time()
    summary = run(spec_from(values, "benchmark"), storage=place, objective=objective)
    ended = time.time()
    assert summary.exit_code == 0, summary.counts
    times = [json.loads(path.read_text()) for path in summary.folder.glob("trials/*/times.json")]
    assert len(times) == trials
    return Timing(began, ended, [(start, end) for start, end in times])


def plain(trials: int, seconds: float, burn: bool, place: Path) -> Timing:
    """The same trials as a function trainable of Ray Tune, as its documentation shows it."""
    import ray
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        import torch  # noqa: F401
        import transformers  # noqa: F401
        from transformers.models.llama import modeling_llama  # noqa: F401

        began, ended = work(seconds, burn)
        tune.report({"began": began, "ended": ended})

    began = time.time()
    ray.init(address="local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"seed": tune.grid_search(list(range(trials)))},
        run_config=tune.RunConfig(storage_path=str(place), verbose=0),
    )
    found = [result.metrics for result in tuner.fit()]
    ended = time.time()
    ray.shutdown()
    return Timing(began, ended, [(metrics["began"], metrics["ended"]) for metrics in found if metrics])


def main() -> None:
    """Run both sides and print their efficiencies and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--burn", action="store_true", help="compute instead of sleeping")
    parser.add_argument("--ours", action="store_true", help="leave plain Tune out")
    given = parser.parse_args()
    import_quietly()
    sides = {"kvtune": ours} if given.ours else {"kvtune": ours, "plain Tune": plain}
    timings = {}
    for name, side in sides.items():
        with tempfile.TemporaryDirectory(prefix="kvs") as place:
            timings[name] = side(given.trials, given.seconds, given.burn, Path(place).resolve())
        timing = timings[name]
        print(
            f"{name}: {given.trials} trials of {timing.work_s:.2f} s on {SLOTS} slots: "
            f"steady {timing.steady:.1%}, overall {timing.overall:.1%} "
            f"({timing.ended - timing.began:.1f} s with the start of Ray)"
        )
    if not given.ours:
        print(
            f"ratio: steady {timings['kvtune'].steady / timings['plain Tune'].steady:.2f}, "
            f"overall {timings['kvtune'].overall / timings['plain Tune'].overall:.2f}"
        )


if __name__ == "__main__":
    main()
