"""The gates that a contrast must pass before any test: what a pair must share, and what the plan promised."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic_core import from_json

from analysis.endpoints import Endpoint
from analysis.looks import dropped_seeds, same_arms
from analysis.pairing import Pairs
from analysis.plan import Imported, Plan
from analysis.records import ADMINISTRATIVE, FAILURES, Experiment

GateStatus = Literal["passed", "failed", "not checked"]

RECORDED = {
    "planned_steps": "as many planned steps",
    "tokens_seen": "as many tokens seen",
    "data_order_hash": "the same batches in the same order",
    "init_hash": "the same first weights",
    "eval_set_hash": "the same held-out rows",
}
"""Column -> what its equality within a pair means."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One validity check of a contrast. A failed gate makes the verdict INVALID."""

    name: str
    status: GateStatus
    detail: str


BY_MODULE = re.compile(r"all:\w{16}( \w+:\w{16})+")
"""init_hash as trials write it: of all initial weights, and of each module by itself."""
ALL_MODULES = re.compile(r"[0-9a-f]{16}")
"""init_hash as trials of version 0.1 wrote it."""
TOGETHER = (
    "; version 0.1 hashed all modules together, so that an arm which lacks one differs by that alone: "
    "to compare the others, run both arms anew under another name (--set name=...)"
)
BY_SEED = ("data_order_hash", "init_hash")
"""What follows from a trial's seed, and so differs by design in an A/A over other seeds."""


def gates_of(experiment: Experiment, pairs: Pairs) -> tuple[Gate, ...]:
    """All checks of one contrast on one endpoint, in the order of the report."""
    return tuple(_gates(experiment, pairs))


def _gates(experiment: Experiment, pairs: Pairs) -> Iterator[Gate]:
    plan = experiment.plan
    rows = pairs.rows.assign(block=[plan.seed_name(seed) for seed in pairs.rows["seed"]])
    yield _declared_factors_only(rows, plan, pairs.treatment, pairs.baseline)
    yield _as_planned(rows)
    yield _no_seed_replaced(experiment, (pairs.treatment, pairs.baseline))
    offset = plan.seed_offset(pairs.treatment) - plan.seed_offset(pairs.baseline)
    for column in RECORDED:
        yield (
            _by_design(column, offset)
            if offset and column in BY_SEED
            else _equal_within_pairs(rows, column, own=plan.imported is None)
        )
    yield _endpoint_exists(rows, pairs.endpoint, pairs.treatment, pairs.baseline)
    yield _same_evaluations(rows, pairs.endpoint)


def _by_design(column: str, offset: int) -> Gate:
    return Gate(
        name=f"{RECORDED[column]} within each pair",
        status="not checked",
        detail=f"{column} cannot agree: seed_offset {offset} gives the two sides other seeds on purpose",
    )


def _no_seed_replaced(experiment: Experiment, arms: tuple[str, str]) -> Gate:
    """A seed that ran under an earlier plan, or that failed, may not vanish from this one."""
    name = "no seed that ran was left out"
    plan, runs = experiment.plan, experiment.runs
    if plan.imported is not None and (plan.imported.ignored or not plan.imported.planned):
        return Gate(name=name, status="not checked", detail=_unknown_runs(plan.imported))
    dropped = [seed for seed in dropped_seeds(plan, arms) if _ran(experiment, seed, arms)]
    strays = runs[runs["arm"].isin(arms) & ~runs["seed"].isin(plan.seeds)]
    evaluated = experiment.metrics.loc[experiment.metrics["split"] == "eval", "trial_id"]
    strays = strays[~strays["status"].isin(ADMINISTRATIVE) | strays["trial_id"].isin(evaluated)]
    failed = sorted({int(seed) for seed in strays.loc[strays["status"].isin(FAILURES), "seed"]})
    if dropped or failed:
        out = sorted({*dropped, *failed})
        told = f" ({_seeds(plan, failed)} failed)" if failed else ""
        return Gate(
            name=name,
            status="failed",
            detail=f"{_seeds(plan, out)} ran{told} and {'is' if len(out) == 1 else 'are'} planned no more: a "
            f"seed is never replaced by a fresh one; plan {'it' if len(out) == 1 else 'them'} again, or "
            "start a new experiment",
        )
    aside = sorted({int(seed) for seed in strays["seed"]})
    kept = f"{_seeds(plan, aside)} ran and {'was' if len(aside) == 1 else 'were'} never planned: left aside"
    detail = kept if aside else "all are planned"
    return Gate(name=name, status="passed", detail=detail)


def _seeds(plan: Plan, seeds: Sequence[int]) -> str:
    """ "seed 8", "seeds 8, 9"."""
    return f"seed{'s' * (len(seeds) > 1)} {_listed(map(plan.seed_name, seeds))}"


def _unknown_runs(imported: Imported) -> str:
    """Why nobody can tell whether runs are missing."""
    if imported.ignored:
        return f"left out for want of an arm or a seed, as the mapping says: {len(imported.ignored)}"
    return "which runs were planned is not on record: these are the ones that were found"


def _ran(experiment: Experiment, seed: int, arms: tuple[str, str]) -> bool:
    """Whether a trial of the seed came to anything in either arm, by the plan's history.

    A history of version 0.1 does not tell: then by the trials' folders, and where there are none it did.
    """
    known = [(arm, was) for arm in arms for was in same_arms(experiment.plan, [arm]) if seed in was.seeds]
    if known and all(was.ran is not None for _, was in known):
        return any(seed in (was.ran or {}).get(arm, ()) for arm, was in known)
    trials = experiment.folder.trials
    names = "|".join(re.escape(experiment.plan.labels[arm].arm) for arm in arms)
    ours = re.compile(rf"({names})-seed{seed}-[0-9a-f]+(\.corrupt-\d+)?")
    return not trials.is_dir() or any(
        came_to_something(trial) for trial in trials.iterdir() if ours.fullmatch(trial.name)
    )


def came_to_something(trial: Path) -> bool:
    """Whether a trial's folder tells of a result, an evaluation, or a failure at its end.

    An attempt that was cancelled or lost before any evaluation is nothing that could be left out. Where the
    folder tells of no attempt nobody knows, and it counts.
    """
    if not trial.is_dir():
        return False
    attempts = list(_lines(trial / "attempts.jsonl"))
    ended = attempts[-1].get("status") in ("completed", *FAILURES) if attempts else True
    return (
        ended
        or (trial / "result.json").exists()
        or any(row.get("split") == "eval" for row in _lines(trial / "metrics.jsonl"))
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a file of lines, as far as it can be read: a killed writer tears its last."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for line in lines:
        with suppress(ValueError):
            if isinstance(row := from_json(line), dict):
                yield row


def notes_of(pairs: Pairs) -> tuple[str, ...]:
    """What pairs differ in that makes no comparison invalid and may still explain a difference."""
    found = []
    for column, what in (("code_rev", "revisions of the code"), ("device", "kinds of device")):
        if f"treatment_{column}" not in pairs.rows.columns:
            continue
        differing = _differing(pairs.rows[pairs.rows["kind"] == "paired"], column)
        if len(differing):
            found.append(f"The two runs of seeds {_listed(differing['seed'])} used different {what}.")
    return tuple(found)


def _declared_factors_only(rows: pd.DataFrame, plan: Plan, treatment: str, baseline: str) -> Gate:
    name = "configs differ in declared factors only"
    factors = {(cell.arm, cell.seed): cell.factors for cell in plan.cells}
    undeclared: dict[str, list[int]] = {}
    for seed in rows["seed"]:
        ours, theirs = factors.get((treatment, seed), {}), factors.get((baseline, seed), {})
        for field in sorted((ours.keys() & theirs.keys()) - set(plan.declared_factors)):
            if ours[field] != theirs[field]:
                undeclared.setdefault(field, []).append(seed)
    for column in [name for name in rows.columns if name.startswith("treatment_factor.")]:
        field = column.removeprefix("treatment_factor.")
        differing = _differing(rows, f"factor.{field}")
        if len(differing) and field not in plan.declared_factors:
            undeclared.setdefault(field, [int(seed) for seed in differing["seed"]])
    if undeclared:
        what = "; ".join(
            f"{field} (seeds {_listed(map(plan.seed_name, seeds))})"
            for field, seeds in sorted(undeclared.items())
        )
        return Gate(name=name, status="failed", detail=f"they also differ in {what}")
    if not any(factors.values()) and not any(name.startswith("treatment_factor.") for name in rows.columns):
        return Gate(name=name, status="not checked", detail="no config is recorded")
    declared = ", ".join(plan.declared_factors) or "none"
    return Gate(name=name, status="passed", detail=f"declared: {declared}")


def _as_planned(rows: pd.DataFrame) -> Gate:
    name = "every trial ran the planned config"
    other: list[str] = []
    for side in ("treatment", "baseline"):
        ran, planned = rows[f"{side}_config_hash"], rows[f"{side}_planned_config_hash"]
        other += [str(trial) for trial in rows.loc[ran.notna() & (ran != planned), f"{side}_trial_id"]]
    if other:
        return Gate(
            name=name, status="failed", detail=f"config_hash differs from the plan's: {_listed(other)}"
        )
    if all(rows[f"{side}_config_hash"].isna().all() for side in ("treatment", "baseline")):
        return Gate(name=name, status="not checked", detail="config_hash is not recorded")
    return Gate(name=name, status="passed", detail="config_hash as planned")


def _equal_within_pairs(rows: pd.DataFrame, column: str, *, own: bool) -> Gate:
    """own: whether kvtune made the runs, so that a hash of its old form is one."""
    name = f"{RECORDED[column]} within each pair"
    # A trial that stopped early has seen fewer tokens by right.
    rows = rows[rows["kind"] == "paired"] if column == "tokens_seen" else rows
    known = rows[rows[f"treatment_{column}"].notna() & rows[f"baseline_{column}"].notna()]
    compared = known.assign(of="", together=False) if column != "init_hash" else _by_shared_modules(known)
    differing = _differing(compared, column)
    if len(differing):
        detail = _first_difference(differing, column, column + differing["of"].iloc[0])
        detail += TOGETHER if own and differing["together"].any() else ""
        return Gate(name=name, status="failed", detail=detail)
    unknown = int((rows["kind"] == "paired").sum() - (known["kind"] == "paired").sum())
    if unknown or known.empty:
        detail = f"{column} is not recorded for {unknown} pairs" if unknown else f"no pair has {column}"
        return Gate(name=name, status="not checked", detail=detail)
    return Gate(name=name, status="passed", detail=f"{column}{compared['of'].iloc[0]}, {len(known)} pairs")


def _by_shared_modules(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with init_hash of what both sides have, and `of`, which names it where that is not all.

    A module that one arm lacks, such as the hidden projector of an arm without CODI, is no difference.
    `together`: whether a side has version 0.1's hash, of which no module can be told.
    """
    sides = [rows[f"{side}_init_hash"] for side in ("treatment", "baseline")]
    found = [_shared(_hashes(ours), _hashes(theirs)) for ours, theirs in zip(*sides, strict=True)]
    names = ("of", "treatment_init_hash", "baseline_init_hash")
    old = [any(_of_version_0_1(one) for one in pair) for pair in zip(*sides, strict=True)]
    return rows.assign(together=old, **{name: [one[name] for one in found] for name in names})


def _of_version_0_1(value: Any) -> bool:
    return isinstance(value, str) and ALL_MODULES.fullmatch(value) is not None


def _hashes(value: Any) -> dict[str, Any]:
    """Module -> hash. One hash alone, as version 0.1 and imported runs have it, is of all modules."""
    if isinstance(value, str) and BY_MODULE.fullmatch(value):
        return dict(part.split(":") for part in value.split())
    return {"all": value}


def _shared(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Both sides' hashes of the first module that differs, or of the first, among those that both have."""
    shared = sorted((ours.keys() & theirs.keys()) - {"all"}) or ["all"]
    unlike = [module for module in shared if ours[module] != theirs[module]]
    told = unlike or (shared if ours.keys() != theirs.keys() else [])
    of = f" of {', '.join(told)}" if told and shared != ["all"] else ""
    first = (unlike or shared)[0]
    return {"of": of, "treatment_init_hash": ours[first], "baseline_init_hash": theirs[first]}


def _first_difference(differing: pd.DataFrame, column: str, what: str) -> str:
    row = differing.iloc[0]
    return (
        f"{what} differs for seeds {_listed(differing['block'])} (seed {row['block']}: "
        f"{_short(row[f'treatment_{column}'])} against {_short(row[f'baseline_{column}'])})"
    )


def _endpoint_exists(rows: pd.DataFrame, endpoint: Endpoint, treatment: str, baseline: str) -> Gate:
    name = "every completed run has the endpoint"
    without = []
    for arm, side in ((treatment, "treatment"), (baseline, "baseline")):
        gap = rows[f"{side}_gap"]
        lacking = rows[(rows[f"{side}_status"] == "completed") & gap.notna() & (gap != "")]
        if len(lacking):
            why = lacking[f"{side}_gap"].iloc[0]
            without.append(f"{arm}: {why} (seeds {_listed(lacking['block'])})")
    if without:
        return Gate(name=name, status="failed", detail=f"{endpoint.label} is missing. {'; '.join(without)}")
    return Gate(name=name, status="passed", detail=endpoint.label)


def _same_evaluations(rows: pd.DataFrame, endpoint: Endpoint) -> Gate:
    name = "the same evaluations within each pair"
    both = rows[rows["kind"] == "paired"]
    if endpoint.at == "last":
        return Gate(
            name=name,
            status="not checked",
            detail="each run ends at its own step, as `analysis.at: last` says",
        )
    for column, what in (("points", "number of evaluations"), ("last_step", "step of the last evaluation")):
        differing = _differing(both, column)
        if len(differing):
            return Gate(name=name, status="failed", detail=_first_difference(differing, column, what))
    if both.empty:
        return Gate(name=name, status="not checked", detail="no pair to check")
    points = both["treatment_points"].astype("int64")
    seen = str(points.min()) if points.min() == points.max() else f"{points.min()} to {points.max()}"
    return Gate(name=name, status="passed", detail=f"{seen} evaluation{'s' * (seen != '1')} a run")


def _differing(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows in which both sides are known and not the same."""
    ours, theirs = rows[f"treatment_{column}"], rows[f"baseline_{column}"]
    known = ours.notna() & theirs.notna()
    return rows[known & (ours.astype(object) != theirs.astype(object))]


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def _short(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}…"
