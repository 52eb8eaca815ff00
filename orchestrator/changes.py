"""What an experiment's folder knows of earlier plans, and what this plan changes in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from analysis.records import ResultsFolder
from orchestrator.attempts import RESULTS
from orchestrator.collect import read_plan, read_trial
from orchestrator.trials import Cell, Plan
from trainables.config import InputError, meaning
from trainables.json_files import LARGE, CorruptFile, read_object

KnownPlan = Mapping[str, Any]
"""plan.json as an earlier launch wrote it."""


def known_plan(folder: ResultsFolder, plan: Plan) -> KnownPlan | None:
    """The plan that ran here before, None in a new folder.

    A folder that belongs to something else is refused; an edited experiment is the same one.
    """
    way_out = "choose another --storage, or another name (--set name=...)."
    _refuse_links(folder, plan)
    if folder.path.exists() and not folder.path.is_dir():
        raise InputError(f"{folder.path} is a file: {way_out}")
    if not folder.plan.exists():
        if any(path.suffix != ".part" for path in folder.path.glob("[!.]*")):
            raise InputError(f"{folder.path} holds files and no experiment: {way_out}")
        return None
    try:
        known = read_plan(folder)
    except CorruptFile as error:
        raise InputError(
            f"{folder.path}: {error.brief}, so whose folder it is cannot be told: {way_out}"
        ) from None
    name, arms = known["name"], set(known["arms"])
    if name != plan.spec.name or not arms & set(plan.labels):
        raise InputError(
            f"{folder.path} holds another experiment ({name}, arms {', '.join(sorted(arms))}): {way_out}"
        )
    return known


def _refuse_links(folder: ResultsFolder, plan: Plan) -> None:
    """Refuse folders that are links: what is written there would land somewhere else."""
    places = [folder.path, folder.trials, *(folder.trials / cell.trial_id for cell in plan.cells)]
    for path in places:
        if path.is_symlink():
            raise InputError(
                f"{path} is a symbolic link, and results stay in the storage: put a folder there, or give "
                "where it leads as --storage."
            )


def history(known: KnownPlan | None, plan: Plan, folder: ResultsFolder, at: str) -> list[dict[str, Any]]:
    """Earlier plans with other seeds, arms or primary endpoint, oldest first; `at`: when the next took over.

    `looked` is whether a report of that plan was there by then.
    """
    if known is None:
        return []
    earlier = list(known.get("history") or [])
    ours = plan.to_dict()
    before, now = known.get("analysis") or {}, ours["analysis"]
    same = all(before.get(name, now[name]) == now[name] for name in ("primary", "looks"))
    if same and sorted(known["seeds"]) == sorted(ours["seeds"]) and _same_arms(known["arms"], ours["arms"]):
        return earlier
    told = {entry["plan_hash"] for entry in earlier}
    entry = {name: known.get(name) for name in ("plan_hash", "seeds", "arms")}
    entry |= {name: before.get(name) for name in ("looks", "primary")}
    return [*earlier, {**entry, "at": at, "looked": _reported(folder, told)}]


def _same_arms(known: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether the arms mean the same, wherever their files lie."""
    return {arm: meaning(fields) for arm, fields in known.items()} == {
        arm: meaning(fields) for arm, fields in ours.items()
    }


def _reported(folder: ResultsFolder, told: set[str]) -> bool:
    """Whether a report was written since the plans already told of; one that nobody can read counts."""
    try:
        return str(read_object(folder.report / "results.json", largest=LARGE).get("plan_hash")) not in told
    except FileNotFoundError:
        return False
    except CorruptFile:
        return True


@dataclass(frozen=True)
class Edit:
    """One change of configuration that sets finished trials aside."""

    arms: tuple[str, ...]
    fields: tuple[str, ...]
    """`field: old -> new`, each."""
    finished: int
    """Trials with a result of the old configuration."""


def edits(known: KnownPlan | None, plan: Plan, folder: ResultsFolder) -> list[Edit]:
    """What the plan changes where trials have finished; arms that are changed alike stand together."""
    before = {(cell["arm"], cell["seed"]): cell for cell in (known or {}).get("cells", ())}
    finished: dict[str, int] = {}
    fields: dict[str, tuple[str, ...]] = {}
    for cell in plan.cells:
        old = before.get((cell.arm, cell.seed))
        if old is None or old["trial_id"] == cell.trial_id or not _finished(folder, old):
            continue
        finished[cell.arm] = finished.get(cell.arm, 0) + 1
        fields.setdefault(cell.arm, tuple(_differences(folder, old, cell)))
    alike: dict[tuple[str, ...], list[str]] = {}
    for arm, changed in fields.items():
        alike.setdefault(changed, []).append(arm)
    return [
        Edit(arms=tuple(arms), fields=changed, finished=sum(finished[arm] for arm in arms))
        for changed, arms in alike.items()
    ]


def agree(found: Sequence[Edit], plan: Plan, *, yes: bool, console: Console) -> None:
    """Show the edits and have them agreed to: by `yes`, or by the user where there is a terminal.

    Raises InputError, with the ways out, where nobody agrees. Without edits nothing is said.
    """
    show(found, plan, console)
    if found and not (yes or _asked(console)):
        raise InputError(
            "finished trials would be set aside, and nothing was run: say --yes to go on, undo the edit, "
            "or keep both under another name (--set name=...)."
        )


def show(found: Sequence[Edit], plan: Plan, console: Console) -> None:
    """The edits, arm by arm; nothing where there are none."""
    if not found:
        return
    say(console, f"{plan.spec.name}: this edit changes what finished trials mean:")
    for edit in found:
        arms = "every arm" if set(edit.arms) == set(plan.labels) else ", ".join(edit.arms)
        what = "; ".join(edit.fields) or "the same fields under another version's name"
        say(console, f"  {arms}: {what} ({_trials(edit.finished)} set aside)")
    say(console, "They stay in trials/, leave the report, and count again if the edit is undone.")


def tell(known: KnownPlan | None, plan: Plan, folder: ResultsFolder, console: Console) -> None:
    """Name what spends nothing and still changes the report: trials left out, another analysis."""
    if known is None:
        return
    for line in [*_left_out(known, plan, folder), *_analysis_changes(known, plan)]:
        say(console, f"{plan.spec.name}: {line}")


def _left_out(known: KnownPlan, plan: Plan, folder: ResultsFolder) -> Iterator[str]:
    """Arms and seeds that are no longer planned, with their trials."""
    planned = {(cell.arm, cell.seed) for cell in plan.cells}
    gone: dict[str, list[Mapping[str, Any]]] = {}
    for cell in known.get("cells", ()):
        if (cell["arm"], cell["seed"]) not in planned:
            gone.setdefault(cell["arm"], []).append(cell)
    for arm, cells in gone.items():
        seeds = ", ".join(str(cell["seed"]) for cell in cells[:12]) + (", ..." if len(cells) > 12 else "")
        finished = sum(_finished(folder, cell) for cell in cells)
        yield (
            f"no longer planned: {arm}, seed {seeds} ({_trials(finished)}); "
            "what there is stays in trials/ and leaves the report"
        )


def _analysis_changes(known: KnownPlan, plan: Plan) -> Iterator[str]:
    before, after = _flat(known.get("analysis") or {}), _flat(plan.spec.analysis.to_plan())
    for field, value in after.items():
        if field in before and before[field] != value:
            yield f"analysis.{field}: {_shown(before[field])} -> {_shown(value)}, for all trials"


def _flat(section: Mapping[str, Any]) -> dict[str, Any]:
    primary = section.get("primary")
    return {**section, **(primary if isinstance(primary, dict) else {}), "primary": None}


def _differences(folder: ResultsFolder, old: Mapping[str, Any], cell: Cell) -> Iterator[str]:
    """`field: old -> new` between the finished trial's own config and the planned one."""
    before = meaning(read_trial(folder.trials / old["trial_id"], old).config)
    after = meaning(cell.config.to_dict())
    for field in dict.fromkeys([*after, *before]):
        if field != "seed" and before.get(field) != after.get(field):
            yield f"{field}: {_shown(before.get(field))} -> {_shown(after.get(field))}"


def _finished(folder: ResultsFolder, cell: Mapping[str, Any]) -> bool:
    return read_trial(folder.trials / cell["trial_id"], cell).status in RESULTS


def _asked(console: Console) -> bool:
    """The user's word, where there is one to ask."""
    if not (console.is_terminal and sys.stdin.isatty()):
        return False
    console.print("Go on? \\[y/N] ", end="", highlight=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _trials(count: int) -> str:
    return "1 finished trial" if count == 1 else f"{count} finished trials"


def _shown(value: Any) -> str:
    text = "unset" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def say(console: Console, line: str) -> None:
    """One line as it is: no markup, no wrapping."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
