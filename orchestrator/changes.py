"""What an experiment's folder knows of earlier plans, and what this plan changes in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from analysis.records import ResultsFolder
from analysis.validity import came_to_something
from orchestrator.attempts import RESULTS
from orchestrator.collect import read_plan, read_trial
from orchestrator.trials import Cell, Plan
from trainables.config import InputError, meaning
from trainables.json_files import LARGE, CorruptFile, read_object

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
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
    ran = {"ran": _ran(known, folder)} if known.get("cells") else {}
    return [*earlier, {**entry, "at": at, "looked": _reported(folder, told), **ran}]


def _ran(known: KnownPlan, folder: ResultsFolder) -> dict[str, list[int]]:
    """Arm -> its seeds that came to anything: what a later report must not leave out, wherever it is made."""
    ran: dict[str, list[int]] = {}
    for cell in known["cells"]:
        if came_to_something(folder.trials / cell["trial_id"]):
            ran.setdefault(cell["arm"], []).append(cell["seed"])
    return ran


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


def agree(
    found: Sequence[Edit], leaving: Sequence[Leaving], plan: Plan, *, yes: bool, console: Console
) -> None:
    """Show the edits, and have them and what leaves the plan agreed to: by `yes`, or at a terminal.

    Raises InputError, with the ways out, where nobody agrees. Where nothing is lost nothing is asked.
    """
    show(found, plan, console)
    finished, others = sum(one.finished for one in leaving), sum(one.others for one in leaving)
    if not (found or finished or others) or yes or _asked(console):
        return
    lost = f"{finished + others} trials that ran" if others else _trials(finished)
    what = "finished trials would be set aside" if found else f"{lost} would leave the plan"
    way_back = "undo the edit" if found else "plan them again (--seeds, arms)"
    raise InputError(
        f"{what}, and nothing was run: say --yes to go on, {way_back}, or keep both under another name "
        "(--set name=...)."
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


def tell(known: KnownPlan | None, leaving: Sequence[Leaving], plan: Plan, console: Console) -> None:
    """Name what changes the report and is no edit of a trial: trials left out, another analysis.

    And a single seed, which who wrote `--seeds 4` may have meant as a number of seeds.
    """
    analysis = _analysis_changes(known, plan) if known else ()
    for line in [*_lone_seed(plan.spec.seeds), *map(_left_out, leaving), *analysis]:
        say(console, f"{plan.spec.name}: {line}")


def _lone_seed(seeds: Sequence[int]) -> Iterator[str]:
    """What a single seed is, and what as many seeds as its number are: 0 to the one before it."""
    if len(seeds) == 1 and (seed := seeds[0]):
        number = NUMBERS[seed] if seed < len(NUMBERS) else f"{seed:,}"
        yield f"seed {seed} alone; " + (f"{number} seeds are 0-{seed - 1}" if seed > 1 else "one seed is 0")


@dataclass(frozen=True)
class Leaving:
    """Trials of one arm that were planned and are no more."""

    arm: str
    seeds: tuple[int, ...]
    finished: int
    """With a result."""
    others: int
    """Without one, that failed or were evaluated: the report counts them as run."""
    pairs: bool
    """Whether the arm is still planned as it was, so that the seeds are missing from its pairs."""


def leaving(known: KnownPlan | None, plan: Plan, folder: ResultsFolder) -> list[Leaving]:
    """What the plan leaves out of the one before it, by arm."""
    planned = {(cell.arm, cell.seed) for cell in plan.cells}
    gone: dict[str, list[Mapping[str, Any]]] = {}
    for cell in (known or {}).get("cells", ()):
        if (cell["arm"], cell["seed"]) not in planned:
            gone.setdefault(cell["arm"], []).append(cell)
    before, after = (known or {}).get("arms", {}), plan.to_dict()["arms"]
    kept = {arm for arm in gone if arm in after and _same_arms({arm: before.get(arm, {})}, {arm: after[arm]})}
    return [_leaving(arm, cells, folder, pairs=arm in kept) for arm, cells in gone.items()]


def _leaving(arm: str, cells: Sequence[Mapping[str, Any]], folder: ResultsFolder, *, pairs: bool) -> Leaving:
    finished = sum(_finished(folder, cell) for cell in cells)
    ran = sum(came_to_something(folder.trials / cell["trial_id"]) for cell in cells)
    seeds = tuple(cell["seed"] for cell in cells)
    return Leaving(arm=arm, seeds=seeds, finished=finished, others=max(0, ran - finished), pairs=pairs)


def _left_out(gone: Leaving) -> str:
    seeds = ", ".join(map(str, gone.seeds[:12])) + (", ..." if len(gone.seeds) > 12 else "")
    others = f", {gone.others} failed or evaluated" if gone.others else ""
    lost = gone.pairs and gone.finished + gone.others
    return (
        f"no longer planned: {gone.arm}, seed {seeds} ({_trials(gone.finished)}{others}); "
        "what there is stays in trials/ and leaves the report"
        f"{', which is INVALID without seeds that ran' if lost else ''}"
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
