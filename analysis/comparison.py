"""The answer to one question: one contrast on one endpoint, with all that its verdict rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from analysis import signflip
from analysis.effects import Effects, Sensitivity, effects_of, sensitivity_of
from analysis.endpoints import Endpoint
from analysis.looks import Extension, Look
from analysis.missingness import FailureTest, WorstRank, failure_test
from analysis.multiplicity import Holm
from analysis.paired_tests import ROUNDING, Interval, MarginTest, Statistics, margin_test
from analysis.pairing import SeedRow
from analysis.plan import Mode
from analysis.power import SeedsNeeded, detectable_dz, seeds_needed, upper_sd
from analysis.ragged import Floats
from analysis.records import ADMINISTRATIVE, FAILURES
from analysis.validity import Gate

Verdict = Literal[
    "INVALID", "NOT TESTABLE", "DEGENERATE", "SUPERIOR", "INFERIOR", "EQUIVALENT", "NON-INFERIOR",
    "INCONCLUSIVE",
]  # fmt: skip
CLAIMS = ("SUPERIOR", "INFERIOR", "EQUIVALENT", "NON-INFERIOR")
Role = Literal["primary", "secondary", "stability", "exploratory"]
"""primary and secondary are named in the plan, stability belongs to every plan; exploratory is all else:
estimates, no p, no claim."""
Cap = Literal["failures", "interim", "extension"]
"""What took a claim back: failed runs that point elsewhere, an undeclared look, or seeds added after one."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """An A/A: how far two copies of one configuration lie apart."""

    kind: Literal["nondeterminism", "seed variance"]
    """Copies with the same seeds, or with others."""
    sd: float | None
    """Of the differences."""
    upper_sd: float | None
    """Its upper 80 % limit."""
    largest: float
    """Largest difference, without its sign."""
    half_width: float | None
    """Half the interval's width: with so many seeds no smaller margin can be met."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The answer to one planned question. Differences are treatment - baseline in the metric's unit."""

    treatment: str
    baseline: str
    endpoint: Endpoint
    role: Role
    mode: Mode
    alpha: float
    """Level of this look; Holm-adjusted p and single p alike are compared with it."""
    margin: float | None
    sesoi: float | None
    verdict: Verdict
    statistics: Statistics
    rows: tuple[SeedRow, ...]
    """Every planned seed."""
    worst_rank: WorstRank | None
    """None where nothing failed."""
    capped_from: Verdict | None
    """The verdict that the complete pairs alone would have given, where something took it back."""
    cap: Cap | None
    gates: tuple[Gate, ...]
    holm: Holm | None
    """None where the question shares its level with no other."""
    look: Look
    extension: Extension | None
    offset: bool
    """A/A over other seeds: the arms' trials take different seeds within a block."""
    notes: tuple[str, ...]
    """What pairs differ in without being invalid."""
    imported: bool = False
    """Whether kvtune did not make the runs, and so cannot make them again."""

    @property
    def metric(self) -> str:
        return self.endpoint.metric

    @property
    def difference(self) -> float | None:
        """Mean of the paired differences."""
        return self.statistics.difference

    @property
    def p_signflip(self) -> float | None:
        """Two-sided, exact up to 16 pairs; not adjusted (see holm)."""
        return self.statistics.p_signflip

    @property
    def p_t(self) -> float | None:
        """Two-sided paired t test; not adjusted (see holm)."""
        return self.statistics.p_t

    @property
    def interval(self) -> Interval | None:
        """Paired t interval at 1 - alpha."""
        return self.statistics.interval

    @property
    def interval_exact(self) -> Interval | None:
        """The values that the exact test does not reject at alpha; None where it can reject none."""
        return self.statistics.interval_exact

    @property
    def interval_family(self) -> Interval | None:
        """Paired t interval at 1 - alpha / family size: where it lies decides about the margin."""
        return self.statistics.interval_family

    @property
    def deltas(self) -> tuple[float, ...]:
        return tuple(row.delta for row in self.rows if row.delta is not None)

    @property
    def pairs(self) -> int:
        """Complete pairs."""
        return len(self.deltas)

    @property
    def planned(self) -> int:
        """Planned pairs."""
        return len(self.rows)

    @property
    def floor(self) -> float:
        """The smallest p that the exact test can give with these pairs, by itself."""
        return signflip.floor_of(self.pairs)

    @property
    def findings(self) -> tuple[Gate, ...]:
        """The gates that failed."""
        return tuple(gate for gate in self.gates if gate.status == "failed")

    @property
    def banner(self) -> str | None:
        """What must stand above the verdict; None where nothing must."""
        return None if self.extension is None else self.extension.banner

    @property
    def excluded(self) -> tuple[SeedRow, ...]:
        """Planned seeds that are no complete pair, with both statuses."""
        return tuple(row for row in self.rows if row.kind != "paired")

    @property
    def failures(self) -> dict[str, int]:
        """Arm -> runs that diverged, crashed, ran out of memory or time."""
        return self._counted(FAILURES)

    @property
    def lost(self) -> dict[str, int]:
        """Arm -> planned runs lost for reasons apart from the arm."""
        return self._counted(ADMINISTRATIVE)

    def _counted(self, statuses: Sequence[str]) -> dict[str, int]:
        return {
            self.baseline: sum(row.baseline_status in statuses for row in self.rows),
            self.treatment: sum(row.treatment_status in statuses for row in self.rows),
        }

    @property
    def statuses(self) -> dict[str, dict[str, int]]:
        """Arm -> status -> planned runs that ended so."""
        return {
            self.baseline: dict(sorted(Counter(row.baseline_status for row in self.rows).items())),
            self.treatment: dict(sorted(Counter(row.treatment_status for row in self.rows).items())),
        }

    @property
    def retries(self) -> dict[str, int]:
        """Arm -> attempts beyond the first of each run."""
        return {
            self.baseline: sum(max(0, row.baseline_attempts - 1) for row in self.rows),
            self.treatment: sum(max(0, row.treatment_attempts - 1) for row in self.rows),
        }

    @cached_property
    def failure_test(self) -> FailureTest:
        """Exact McNemar of the failures."""
        return failure_test(self.rows)

    @cached_property
    def effects(self) -> Effects:
        """Standardised and robust sizes, and wins."""
        return effects_of(self._deltas, self._noise, self.endpoint.harm_sign, self.alpha)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Wilcoxon, leave one seed out, pair correlation."""
        if self.verdict == "INVALID" or self.role == "exploratory":
            return Sensitivity()
        paired = [row for row in self.rows if row.kind == "paired"]
        return sensitivity_of(
            self._deltas,
            np.array([row.baseline for row in paired], dtype=np.float64),
            np.array([row.treatment for row in paired], dtype=np.float64),
            [row.seed for row in paired],
            self._noise,
        )

    @property
    def _deltas(self) -> Floats:
        return np.array(self.deltas, dtype=np.float64)

    @property
    def _noise(self) -> float:
        return rounding_of(self.rows, self.endpoint)

    @cached_property
    def margin_test(self) -> MarginTest | None:
        """Non-inferiority and equivalence; None without a margin, or where nothing is tested."""
        if self.margin is None or self.verdict == "INVALID" or self.mode == "aa":
            return None
        return margin_test(self._deltas, self._noise, self.margin, self.endpoint.harm_sign)

    @cached_property
    def detectable_dz(self) -> float | None:
        """The standardised effect that these pairs find with 80 % power."""
        return detectable_dz(self.pairs, self.alpha)

    @property
    def detectable(self) -> float | None:
        """The same in the metric's unit, at the SD found."""
        sd = self.statistics.sd
        return None if self.detectable_dz is None or not sd else self.detectable_dz * sd

    @cached_property
    def needed(self) -> SeedsNeeded | None:
        """Seeds for the smallest effect of interest; None where none was named or nothing varies."""
        sd = self.statistics.sd
        if self.sesoi is None or sd is None:
            return None
        return seeds_needed(self.sesoi, sd, self.pairs, self.alpha)

    @property
    def noise(self) -> Noise | None:
        """Only of an A/A with a complete pair whose values are bounded."""
        if self.mode != "aa" or self.difference is None or self.verdict == "INVALID":
            return None
        sd, interval = self.statistics.sd, self.interval
        return Noise(
            kind="seed variance" if self.offset else "nondeterminism",
            sd=sd,
            upper_sd=None if not sd else upper_sd(sd, self.pairs),
            largest=max(abs(delta) for delta in self.deltas),
            half_width=None if interval is None else (interval[1] - interval[0]) / 2,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know though it changes no verdict."""
        from analysis.cautions import cautions_of

        return tuple(cautions_of(self))

    @property
    def sentence(self) -> str:
        """The verdict for people, with everything it rests on."""
        from analysis.sentences import sentence

        return sentence(self)

    @property
    def next_step(self) -> str:
        """What would change the verdict."""
        from analysis.next_steps import next_step

        return next_step(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON: no NaN or infinity, and a reason for every null."""
        from analysis.plain import comparison_dict

        return comparison_dict(self)


def rounding_of(rows: Sequence[SeedRow], endpoint: Endpoint) -> float:
    """What a difference may owe to the rounding of the values it is taken from."""
    values = [abs(value) for row in rows for value in (row.baseline, row.treatment) if value is not None]
    return max(ROUNDING, 2 * endpoint.precision) * max(
        (value for value in values if np.isfinite(value)), default=0.0
    )
