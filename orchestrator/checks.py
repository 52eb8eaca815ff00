"""What is refused before anything is started, and what must be there first."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from reprlib import repr as short
from typing import Any

from rich.console import Console

from analysis.processes import cpus
from analysis.records import ResultsFolder
from analysis.sizes import size
from orchestrator import changes
from orchestrator.attempts import RESULTS
from orchestrator.child import Objective, resolve
from orchestrator.collect import read_trial
from orchestrator.knock import knock
from orchestrator.space import existing, free_at
from orchestrator.spec import ExperimentSpec, Resources
from orchestrator.trials import Cell, Plan
from orchestrator.tuning import LOCAL, import_quietly, lacking
from trainables.config import DIGESTS, DistillConfig, InputError, unknown

SERIAL = "serial"
TEACHER_FIELDS = (
    "teacher", "model_name", "dataset", "train_file", "eval_file", "drop_last_step", "subset_size",
    "eval_size",
)  # fmt: skip
"""What a built-in teacher's training follows from, at most."""


def results_folder(storage: str | Path, spec: ExperimentSpec) -> ResultsFolder:
    """STORAGE/NAME, absolute."""
    if "://" in str(storage):
        raise InputError(f"--storage takes a folder, on a cluster one that all nodes share, got {storage}.")
    try:
        path = Path(storage).expanduser().resolve() / spec.name
        if not path.exists() and not existing(path.parent).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{existing(path.parent)} is a file")
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"--storage {short(str(storage))} is no place for a folder ({reason}): choose another."
        ) from None
    return ResultsFolder(path)


def check_address(address: str, resources: Resources) -> None:
    """Refuse an address where no cluster can be joined, and here a trial that needs more than there is."""
    if address not in (SERIAL, LOCAL, "auto") and ":" not in address:
        raise unknown("--address", address, (SERIAL, LOCAL, "auto", "HOST:PORT"))
    if address not in (SERIAL, LOCAL):
        import_quietly()
        knock(address)
    memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    here = {"CPU": float(cpus()), "GPU": float("inf"), "memory": memory}
    if address in (SERIAL, LOCAL) and (lack := lacking(resources, [here])):
        raise InputError(lack + _kept_from_us())


def _kept_from_us() -> str:
    """That the machine has more CPUs than we may use, if so."""
    ours, all_of_them = cpus(), os.cpu_count() or 1
    if ours >= all_of_them:
        return ""
    return f" Of its {all_of_them} CPUs this process may use {ours} (taskset, a batch system, a container)."


def missing_cells(plan: Plan, folder: ResultsFolder) -> list[Cell]:
    """The planned cells without a usable result."""
    known = {cell.trial_id: read_trial(folder.trials / cell.trial_id, as_cell(cell)) for cell in plan.cells}
    return [cell for cell in plan.cells if known[cell.trial_id].status not in RESULTS]


def as_cell(cell: Cell) -> dict[str, Any]:
    return {"trial_id": cell.trial_id, "config_hash": cell.config.hash()}


def _alike_in(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells by configuration, whatever their seeds."""
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(replace(cell.config, seed=0).hash(), []).append(cell)
    return list(alike.values())


def preflight(cells: Sequence[Cell], objective: Objective, console: Console) -> None:
    """Refuse what cannot run, and tell what the checks found out, each thing once."""
    told: dict[str, None] = {}
    for cell, *_ in _alike_in(cells):
        try:
            told |= dict.fromkeys(resolve(objective.check)(cell.config) or ())
        except InputError as error:
            raise InputError(f"arm {cell.arm!r}: {error}") from None
    for line in told:
        changes.say(console, line)


def refuse_full_disk(cells: Sequence[Cell], folder: ResultsFolder, objective: Objective) -> None:
    """Refuse a storage that the checkpoints to come would fill, for certain."""
    needed = sum(
        resolve(objective.weigh)(alike[0].config) * sum(_kept_for_certain(cell.config) for cell in alike)
        for alike in _alike_in(cells)
    )
    free = free_at(folder.path)
    if needed > free:
        raise InputError(
            f"--storage: the checkpoints to come take {size(needed)} at least and {size(free)} are free at "
            f"{folder.path}: choose another --storage, free some, or lower base.save_total_limit."
        )


def _kept_for_certain(config: DistillConfig) -> int:
    """Checkpoints that a trial leaves; where only its rows tell how many it makes, one."""
    made = -(-config.max_steps // config.save_steps) if config.max_steps else 1
    return min(made, config.save_total_limit)


def prepare(cells: Sequence[Cell], objective: Objective, console: Console) -> list[dict[str, Any]]:
    """Have the built-in teacher there, once, before any trial needs it; what each was found able to solve."""
    needs = {tuple(getattr(cell.config, name) for name in TEACHER_FIELDS): cell.config for cell in cells}
    found = []
    for config in needs.values():
        accuracy = resolve(objective.prepare)(config, lambda line: changes.say(console, line))
        if accuracy is not None:
            named = [DIGESTS.get(name, name) for name in TEACHER_FIELDS]
            found.append({**{name: getattr(config, name) for name in named}, "accuracy": accuracy})
    return found
