"""What a user should know before trials run: checks that no result can pass, GPUs that nobody would use."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any

import pandas as pd

from analysis.endpoints import endpoint_of
from analysis.pairing import outcomes, pair_up
from analysis.plan import read_plan
from analysis.records import Experiment, ResultsFolder
from analysis.validity import Gate, gates_of
from orchestrator.capacity import Place
from orchestrator.spec import Resources
from orchestrator.trials import Cell, Plan
from trainables.config import DistillConfig
from trainables.trial_folder import write_text

SHARED = (
    "model_name", "dataset", "train_file", "train_sha256", "eval_file", "eval_sha256", "subset_size",
    "eval_size", "drop_last_step", "batch_size", "gradient_accumulation_steps", "epochs", "max_steps",
    "eval_steps",
)  # fmt: skip
"""Fields from which follows what a pair must share: its first weights, rows, steps and evaluations."""
Contrast = tuple[str, str]
"""Treatment and baseline."""
SHOWN = 8
"""Contrasts named in one line, at most."""


def remarks(plan: Plan, cells: Sequence[Cell], places: Sequence[Place]) -> Iterator[str]:
    """One sentence each, for the trials of `cells` on the nodes that there are or may be."""
    yield from _idle_gpus(plan.spec.resources, cells, places)
    yield from doomed(plan)


def _idle_gpus(trial: Resources, cells: Sequence[Cell], places: Sequence[Place]) -> Iterator[str]:
    """That a trial computes on a CPU beside a GPU because it was given none, unless it asks for the CPU."""
    place = max(places, key=lambda place: place.resources.get("GPU", 0))
    there = place.resources.get("GPU", 0)
    if there and not trial.gpus and any(cell.config.device == "auto" for cell in cells):
        yield (
            f"{place.name} has {there:g} GPU{'s' * (there > 1)}, and a trial is given none, so it runs on "
            "CPUs: resources: {gpus: 1} gives each trial one (--set resources.gpus=1), 0.5 half of one"
        )


def doomed(plan: Plan) -> Iterator[str]:
    """A sentence for the planned contrasts that the report will call INVALID if every trial ends as planned.

    The report's own checks are made on the record that the first seed would leave, in which first weights and
    rows stand as what they follow from.
    """
    cells = {cell.arm: cell for cell in plan.cells[: len(plan.labels)]}
    kinds: dict[tuple[Any, ...], list[Contrast]] = {}
    for pair in plan.contrasts:
        kinds.setdefault(tuple(_fields(cells[arm].config) for arm in pair), []).append(pair)
    one_each = {pairs[0]: pairs for pairs in kinds.values()}
    experiment = _as_planned(plan, [cells[arm] for arm in dict.fromkeys(chain(*one_each))])
    for where, pair, gates in _failed(experiment, list(one_each)):
        fields = _differing(*(cells[arm].config for arm in pair))
        why = "; ".join(map(_in_words, gates)) + (f" (they differ in {fields})" if fields else "")
        pairs = [f"{treatment} against {baseline}" for treatment, baseline in one_each[pair]]
        more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        yield f"{', '.join(pairs[:SHOWN])}{more} will be INVALID{where}: {why}"


def _failed(
    experiment: Experiment, contrasts: Sequence[Contrast]
) -> Iterator[tuple[str, Contrast, list[Gate]]]:
    """Contrasts with the checks that fail: of the primary endpoint, and of others beside it."""
    told: set[tuple[Contrast, str]] = set()
    for metric in (None, *experiment.plan.secondary):
        endpoint = endpoint_of(experiment.plan, metric)
        table = outcomes(experiment, endpoint)
        for contrast in contrasts:
            gates = gates_of(experiment, pair_up(experiment, endpoint, *contrast, table))
            failed = [g for g in gates if g.status == "failed" and (contrast, g.name) not in told]
            if failed:
                yield f" for {metric}" if metric else "", contrast, failed
            told |= {(contrast, gate.name) for gate in failed if metric is None}


def _in_words(gate: Gate) -> str:
    if gate.name.startswith("every "):
        return re.sub(r" \(seeds [\d, ]+\)", "", gate.detail)
    return f"not {gate.name.removesuffix(' within each pair')}"


def _differing(ours: DistillConfig, theirs: DistillConfig) -> str:
    return ", ".join(field for field in SHARED if getattr(ours, field) != getattr(theirs, field))


def _as_planned(plan: Plan, cells: Sequence[Cell]) -> Experiment:
    """The experiment of these cells, one an arm, had every trial come to its end."""
    spec = plan.spec.model_copy(update={"seeds": plan.spec.seeds[:1]})
    with tempfile.TemporaryDirectory(prefix="kvtune-plan-") as place:
        folder = ResultsFolder(place)
        write_text(folder.plan, json.dumps(replace(plan, spec=spec, cells=tuple(cells)).to_dict()))
        read = read_plan(folder.plan)
    sources = {endpoint_of(read, metric).source for metric in (None, *read.secondary)}
    records = [_record(cell) for cell in cells]
    curves = [_curves(record, cell.config, sources) for record, cell in zip(records, cells, strict=True)]
    runs, metrics = pd.DataFrame(records), pd.concat(curves)
    return Experiment(folder=folder, plan=read, runs=runs, metrics=metrics, items=None, provenance={})


def _record(cell: Cell) -> dict[str, Any]:
    """The cell's row of runs.parquet."""
    return {
        **_shared(_fields(cell.config)), "trial_id": cell.trial_id, "attempt": 1, "arm": cell.arm,
        "seed": cell.seed, "status": "completed", "failure_reason": None, "config_hash": cell.config.hash(),
    }  # fmt: skip


def _fields(config: DistillConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, field) for field in SHARED)


@cache
def _shared(fields: tuple[Any, ...]) -> dict[str, Any]:
    """What a pair must share, by the values of SHARED."""
    from trainables.data import load_examples
    from trainables.distill import planned_steps
    from trainables.examples import set_hash

    config = DistillConfig(**dict(zip(SHARED, fields, strict=True)))
    splits, rows = load_examples(config), config.batch_size * config.gradient_accumulation_steps
    steps = planned_steps(config, len(splits.train))
    return {
        "planned_steps": steps,
        "data_order_hash": _hash([steps, rows, [example.item_id for example in splits.train]]),
        "tokens_seen": _hash([steps, rows, set_hash(splits.train)]),
        "init_hash": config.model_name,
        "eval_set_hash": set_hash(splits.held_out),
    }


def _curves(record: dict[str, Any], config: DistillConfig, sources: set[str]) -> pd.DataFrame:
    """The evaluations of a trial; their values mean nothing."""
    last = record["planned_steps"]
    steps = [*range(config.eval_steps or last, last, config.eval_steps or last), last]
    place = {"trial_id": record["trial_id"], "attempt": 1, "split": "eval", "wall_s": 0.0, "value": 0.5}
    rows = pd.DataFrame({**place, "step": steps, "tokens": steps})
    return rows.merge(pd.DataFrame({"metric": sorted(sources)}), how="cross")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
