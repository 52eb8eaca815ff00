"""How large a paired effect is, beside its raw unit, and what hangs on the pairing and on single seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import chdtrc, gammaln, ndtr

from analysis import signflip, skew
from analysis.paired_tests import Interval, power_of_two, varies
from analysis.ragged import Floats


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Differences as treatment - baseline. None where there is nothing to compute it from."""

    hodges_lehmann: float | None = None
    """Median of the means of all pairs of differences, each with itself included."""
    dz: float | None = None
    """Mean over SD of the differences."""
    dz_interval: Interval | None = None
    """From the noncentral t distribution."""
    gz: float | None = None
    """Hedges' g of paired differences: dz without its small-sample bias."""
    gz_interval: Interval | None = None
    """The interval of dz, shrunk by the same factor."""
    wins: int = 0
    """Seeds on which the treatment is better."""
    ties: int = 0
    losses: int = 0
    wins_interval: Interval | None = None
    """Clopper-Pearson, for wins / complete pairs."""


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """What becomes of the estimate when any one seed is left out."""

    low: float
    """Lowest mean difference."""
    high: float
    p_t_highest: float | None
    """The weakest paired t test; None where the rest does not vary."""
    seed: int
    """The seed whose absence moves the mean most."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The same differences by other lights: for doubt, never for a claim."""

    p_wilcoxon: float | None = None
    """Signed-rank test; up to 16 pairs exact, ties and zeros included (the sign-flip test on the ranks)."""
    leave_one_out: LeaveOneOut | None = None
    correlation: float | None = None
    """Pearson's r of the two arms over the seeds."""
    skew_z: float | None = None
    """Triples test of the differences' symmetry (skew.triples_z); None where it is not asked."""
    pairing_gain: float | None = None
    """Variance of an unpaired difference over the paired one's: unpaired it takes so many times the seeds."""


def effects_of(deltas: Floats, noise: float, harm_sign: int, alpha: float) -> Effects:
    """All scales of the complete pairs; deltas up to `noise` apart from 0 are ties."""
    if not len(deltas):
        return Effects()
    wins = int(np.count_nonzero(deltas * harm_sign < -noise))
    losses = int(np.count_nonzero(deltas * harm_sign > noise))
    share = stats.binomtest(wins, len(deltas)).proportion_ci(1 - alpha, method="exact")
    counts = Effects(
        wins=wins,
        ties=len(deltas) - wins - losses,
        losses=losses,
        wins_interval=(float(share.low), float(share.high)),
    )
    if not np.isfinite(deltas).all():
        return counts
    dz, interval = _standardised(deltas, noise, alpha)
    shrink = hedges_factor(len(deltas) - 1) if len(deltas) > 2 else None
    return replace(
        counts,
        hodges_lehmann=hodges_lehmann(deltas),
        dz=dz,
        dz_interval=interval,
        gz=None if dz is None or shrink is None else dz * shrink,
        gz_interval=None
        if interval is None or shrink is None
        else (interval[0] * shrink, interval[1] * shrink),
    )


def hodges_lehmann(deltas: Floats) -> float:
    """The median of all Walsh averages: a location that one wild seed moves little."""
    halves = deltas / 2
    return float(np.median(np.concatenate([halves[place:] + halves[place] for place in range(len(halves))])))


def hedges_factor(freedom: int) -> float:
    """What takes the small-sample bias out of a standardised mean, exactly; freedom of 2 or more."""
    half = freedom / 2
    return math.exp(float(gammaln(half) - gammaln(half - 0.5)) - math.log(half) / 2)


def _standardised(deltas: Floats, noise: float, alpha: float) -> tuple[float | None, Interval | None]:
    if len(deltas) < 2 or not varies(deltas, noise):
        return None, None
    scaled = deltas / power_of_two(deltas)
    dz = float(scaled.mean()) / float(scaled.std(ddof=1))
    root = math.sqrt(len(deltas))
    low, high = noncentrality_interval(dz * root, len(deltas) - 1, alpha)
    return dz, (low / root, high / root)


def noncentrality_interval(t: float, freedom: int, alpha: float) -> Interval:
    """The noncentralities under which this t lies in neither tail of alpha / 2."""
    size = abs(t)

    def above(shift: float, level: float) -> float:
        return noncentral_t(size, freedom, shift) - level

    high = size + 10.0
    while above(high, alpha / 2) > 0:
        high *= 2
    low, high = (
        float(brentq(above, -10.0, high, args=(level,), xtol=1e-12 * high))
        for level in (1 - alpha / 2, alpha / 2)
    )
    return (low, high) if t >= 0 else (-high, -low)


def noncentral_t(t: float, freedom: int, shift: float) -> float:
    """P(T <= t) of the noncentral t for t >= 0, by quadrature: scipy's own is NaN for some of our arguments.

    T = (Z + shift) / W with Z normal and W^2 = chi^2 / freedom; whichever of both is the smoother integrand
    is integrated over.
    """
    nodes, weights = _legendre()
    if t < math.sqrt(2 * freedom):
        ends = np.sqrt(stats.chi2.ppf([1e-15, 1 - 1e-15], freedom) / freedom)
        w = ends[0] + (ends[1] - ends[0]) * nodes
        density = 2 * freedom * w * stats.chi2.pdf(freedom * w**2, freedom)
        return float((ends[1] - ends[0]) * (weights * density * ndtr(t * w - shift)).sum())
    start = max(-shift, -9.0)
    if start >= 9.0:
        return float(ndtr(-shift))
    z = start + (9.0 - start) * nodes
    beyond = chdtrc(freedom, freedom * ((z + shift) / t) ** 2)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return float(ndtr(-shift)) + float((9.0 - start) * (weights * density * beyond).sum())


@cache
def _legendre() -> tuple[Floats, Floats]:
    """Nodes in (0, 1), and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return (nodes + 1) / 2, weights / 2


def sensitivity_of(
    deltas: Floats, baseline: Floats, treatment: Floats, seeds: Sequence[int], noise: float
) -> Sensitivity:
    """Wilcoxon, leave one seed out, and what the pairing is worth, of the complete pairs."""
    if not len(deltas):
        return Sensitivity()
    wilcoxon = _wilcoxon(np.where(np.abs(deltas) <= noise, 0.0, deltas))
    if not np.isfinite(deltas).all():
        return Sensitivity(p_wilcoxon=wilcoxon)
    correlation, gain = _pairing(deltas, baseline, treatment, noise)
    return Sensitivity(
        p_wilcoxon=wilcoxon,
        leave_one_out=_leave_one_out(deltas, seeds, noise),
        correlation=correlation,
        skew_z=skew.skew_of(deltas, noise),
        pairing_gain=gain,
    )


def _wilcoxon(deltas: Floats) -> float:
    ranks = signflip.signed_ranks(deltas)
    if len(deltas) <= signflip.ENUMERATED:
        return signflip.p_value(ranks)
    # A sum of many ranks with random signs is nearly normal, and drawing signs once more takes its time.
    size = math.sqrt(float((ranks**2).sum()))
    return float(2 * stats.norm.sf(abs(float(ranks.sum())) / size)) if size else 1.0


def _leave_one_out(deltas: Floats, seeds: Sequence[int], noise: float) -> LeaveOneOut | None:
    n = len(deltas)
    if n < 3:
        return None
    unit = power_of_two(deltas)
    scaled = deltas / unit
    means = (scaled.sum() - scaled) / (n - 1)
    low, high = float(means.min()) * unit, float(means.max()) * unit
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    centred = scaled - scaled.mean()
    # Sum of squares about the mean of the others: that about the common mean, less what this seed adds to it.
    squares = np.maximum((centred**2).sum() - centred**2 * n / (n - 1), 0.0)
    spread = np.sqrt(squares / (n - 2))
    steady = spread <= max(noise / unit, 1e-12)
    ps = np.ones(n)
    ps[~steady] = 2 * stats.t.sf(np.abs(means[~steady]) * math.sqrt(n - 1) / spread[~steady], n - 2)
    most = int(np.argmax(np.abs(means - scaled.mean())))
    return LeaveOneOut(
        low=low, high=high, p_t_highest=None if steady.any() else float(ps.max()), seed=int(seeds[most])
    )


def _pairing(
    deltas: Floats, baseline: Floats, treatment: Floats, noise: float
) -> tuple[float | None, float | None]:
    """Pearson's r, and the gain; both None where an arm does not vary, or is unbounded."""
    if len(deltas) < 3 or not all(
        np.isfinite(arm).all() and varies(arm, noise) for arm in (baseline, treatment)
    ):
        return None, None
    unit = max(power_of_two(baseline), power_of_two(treatment))
    ours, theirs = treatment / unit, baseline / unit
    r = float(np.clip(np.corrcoef(ours, theirs)[0, 1], -1.0, 1.0))
    if not math.isfinite(r):
        return None, None
    if not varies(deltas, noise):
        return r, None
    paired = float(np.var(ours - theirs, ddof=1))
    return r, float((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / paired) if paired > 0 else None
