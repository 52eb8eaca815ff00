"""When the data were looked at, and whether seeds were added or left out after that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.pairing import SeedRow
from analysis.plan import Earlier, Plan
from analysis.power import least_pairs

EXTENSION = "exploratory: unplanned extension"


@dataclass(frozen=True, kw_only=True)
class Look:
    """This look at one contrast's data."""

    declared: tuple[int, ...]
    """Seeds at which looking is declared in the plan."""
    ended: int
    """Seeds that have ended in both arms, complete or failed."""
    planned: int
    alpha: float
    """Level of this look: the plan's, shared out equally among the declared looks."""

    @property
    def final(self) -> bool:
        return self.ended == self.planned

    @property
    def allowed(self) -> bool:
        """A claim may rest on this look: a declared one, or the end where none is declared."""
        return self.ended in self.declared if self.declared else self.final


def look_at(rows: Sequence[SeedRow], plan: Plan) -> Look:
    """Which look this is, and what level it has."""
    return Look(
        declared=plan.looks,
        ended=sum(row.kind != "lost" for row in rows),
        planned=len(rows),
        alpha=level_of(plan.alpha, plan.looks),
    )


def level_of(alpha: float, looks: Sequence[int] | None) -> float:
    """The level of one look: alpha, shared out equally among the declared ones."""
    return alpha / max(1, len(looks or ()))


def hopeless(level: float, looks: Sequence[int] | None) -> tuple[int, ...]:
    """The declared looks at so few pairs that their smallest exact p, 2/2^n, is above the level."""
    return tuple(look for look in looks or () if look < least_pairs(level))


@dataclass(frozen=True, kw_only=True)
class Extension:
    """Seeds that were added after somebody had looked."""

    looked_at: tuple[int, ...]
    """How many seeds each earlier plan had that was looked at."""
    added: tuple[int, ...]
    costs: bool
    """Whether an earlier look had seeds enough to claim anything; if none had, the level still holds."""

    @property
    def banner(self) -> str:
        seeds = ", ".join(str(seed) for seed in self.added)
        looks = " and ".join(str(count) for count in self.looked_at)
        tail = (
            "no claim can rest on it"
            if self.costs
            else "a look at so few seeds could not claim anything, so the level holds"
        )
        were = f"seed {seeds} was" if len(self.added) == 1 else f"seeds {seeds} were"
        return f"{EXTENSION} ({were} added after a look at {looks}; {tail})"


def extension_of(plan: Plan, arms: Sequence[str]) -> Extension | None:
    """Earlier plans of the same arms that were looked at with fewer seeds, unless that look is declared."""
    looked = [entry for entry in same_arms(plan, arms) if entry.looked and not _declared(entry, plan)]
    added = {seed for entry in looked for seed in plan.seeds if seed not in entry.seeds}
    if not added:
        return None
    extended = [entry for entry in looked if added - set(entry.seeds)]
    counts = tuple(dict.fromkeys(len(entry.seeds) for entry in extended))
    return Extension(
        looked_at=counts,
        added=tuple(sorted(added)),
        costs=max(counts) >= least_pairs(level_of(plan.alpha, plan.looks)),
    )


def _declared(entry: Earlier, plan: Plan) -> bool:
    same = entry.looks is None or entry.looks == plan.looks
    return same and len(entry.seeds) in plan.looks


def same_arms(plan: Plan, arms: Sequence[str]) -> list[Earlier]:
    """Earlier plans in which these arms were what they are now."""
    return [
        entry
        for entry in plan.history
        if all(arm in entry.arms and entry.arms[arm] == plan.arms[arm] for arm in arms)
    ]


def dropped_seeds(plan: Plan, arms: Sequence[str]) -> tuple[int, ...]:
    """Seeds of earlier plans of either arm that this plan leaves out."""
    earlier = {seed for arm in arms for entry in same_arms(plan, [arm]) for seed in entry.seeds}
    return tuple(sorted(earlier - set(plan.seeds)))
