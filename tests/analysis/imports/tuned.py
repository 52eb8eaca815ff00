"""Ray Tune experiments as users run them: a retry, a crash, a NaN, a restored trial, ASHA, Ctrl-C and PBT.

Run by test_ray_tune.py, in a process of its own, with a folder. Arms A and B; three iterations of a loss that
B lowers by 0.1.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining

STORAGE = Path(sys.argv[1])


def loss(arm, seed, step):
    return 2 - 0.2 * step - 0.1 * (arm == "B") + 0.01 * seed


def train(config):
    arm, seed, first = config["method"], config["seed"], 1
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as folder:
            first = json.loads((Path(folder) / "step.json").read_text()) + 1
    mark = STORAGE / f"{arm}{seed}"
    for step in range(first, 4):
        if (arm, seed) == ("A", 3) and step == 3 and not mark.exists():
            mark.touch()
            raise RuntimeError("once")
        if seed == 4 and step == (1 if arm == "A" else 2):
            raise RuntimeError("always")
        value = loss(arm, seed, step)
        if (arm, seed) == ("B", 2) and step == 3:
            value = np.float32("nan")
        # Where one step in two is kept, a restored trial reports the other once more, with another value.
        lost = (arm, seed) == ("B", 1) and step == 2
        if lost and mark.exists():
            value += 0.5
        row = {"loss": value, "eval": {"accuracy": np.float32(0.5)}, "trial_id": "mine", "attempt": step}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "step.json").write_text(json.dumps(step))
            tune.report(row, checkpoint=None if lost else tune.Checkpoint.from_directory(folder))
        if lost and not mark.exists():
            mark.touch()
            raise RuntimeError("a step after its checkpoint")


def grid(arms, seeds):
    return {"method": tune.grid_search(list(arms)), "seed": tune.grid_search(seeds), "lr": 0.01}


class Interrupt(tune.Callback):
    """Ctrl-C once two trials have ended."""

    ended = 0

    def on_trial_complete(self, iteration, trials, trial, **info):
        self.ended += 1
        if self.ended == 2:
            os.kill(os.getpid(), signal.SIGINT)


def run(name, seeds, callbacks=None, cpus=1, arms=("A", "B"), **tuning):
    failures = tune.FailureConfig(max_failures=1)
    config = tune.RunConfig(
        name=name, storage_path=str(STORAGE), failure_config=failures, verbose=0, callbacks=callbacks
    )
    tuning = tune.TuneConfig(reuse_actors=True, **tuning)
    tune.Tuner(
        tune.with_resources(train, {"cpu": cpus}),
        param_space=grid(arms, seeds),
        run_config=config,
        tune_config=tuning,
    ).fit()


ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
run("grid", [0, 1, 2, 3, 4])
halving = AsyncHyperBandScheduler(
    "training_iteration", "loss", "min", max_t=3, grace_period=1, reduction_factor=2
)
run("asha", [0, 1], scheduler=halving, max_concurrent_trials=1)
run("interrupted", [5, 6, 7], callbacks=[Interrupt()], cpus=4)
run("none", [0], arms=(None, True))
copying = PopulationBasedTraining(
    "training_iteration", "loss", "min", perturbation_interval=1, hyperparam_mutations={"lr": [0.01, 0.1]}
)
run("pbt", [0, 1], scheduler=copying)
