"""What an experiment's folder knows of earlier plans, and what this plan changes in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from analysis.records import ResultsFolder
from orchestrator.trials import Plan
from trainables.config import InputError

KnownPlan = Mapping[str, Any]
"""plan.json as an earlier launch wrote it."""


def known_plan(folder: ResultsFolder, plan: Plan) -> KnownPlan | None:
    """The plan that ran here before, None in a new folder.

    A folder that belongs to something else is refused; an edited experiment is the same one.
    """
    way_out = "choose another --storage, or another name (--set name=...)."
    if folder.path.exists() and not folder.path.is_dir():
        raise InputError(f"{folder.path} is a file: {way_out}")
    if not folder.plan.exists():
        if any(not path.name.startswith(".") for path in folder.path.glob("*")):
            raise InputError(f"{folder.path} holds files and no experiment: {way_out}")
        return None
    try:
        known = json.loads(folder.plan.read_text(encoding="utf-8"))
        name, arms, _ = known["name"], set(known["arms"]), sorted(known["seeds"])
        _ = [entry["plan_hash"] for entry in known.get("history") or []]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder.plan} cannot be read, so whose folder it is cannot be told: {way_out}"
        ) from None
    if name != plan.spec.name or not arms & set(plan.labels):
        raise InputError(
            f"{folder.path} holds another experiment ({name}, arms {', '.join(sorted(arms))}): {way_out}"
        )
    return known


def history(known: KnownPlan | None, plan: Plan, folder: ResultsFolder, at: str) -> list[dict[str, Any]]:
    """Earlier plans with other seeds or arms, oldest first; `at` is when the next one took over.

    `looked` is whether a report of that plan was there by then.
    """
    if known is None:
        return []
    earlier = list(known.get("history") or [])
    ours = plan.to_dict()
    if sorted(known["seeds"]) == sorted(ours["seeds"]) and known["arms"] == ours["arms"]:
        return earlier
    told = {entry["plan_hash"] for entry in earlier}
    entry = {name: known.get(name) for name in ("plan_hash", "seeds", "arms")}
    return [*earlier, {**entry, "at": at, "looked": _reported(folder, told)}]


def _reported(folder: ResultsFolder, told: set[str]) -> bool:
    """Whether a report was written since the plans already told of; one that nobody can read counts."""
    try:
        report = json.loads((folder.report / "results.json").read_text(encoding="utf-8"))
        return report["plan_hash"] not in told
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True
