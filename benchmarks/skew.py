"""How often differences are called skewed that are not, or are: the numbers of docs/statistics.md.

    python -m benchmarks.skew

Seeded: the same numbers every time, in half a minute.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from analysis import many
from analysis.skew import CRITICAL, triples_z
from benchmarks.statistics import CLAIMS, DELTAS, Draw, generator, print_row

SIZES = (6, 8, 12, 16)
REPEATS, CHUNK = 4_000, 250
LAWS: dict[str, Draw] = {
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    **DELTAS,
    "lognormal less normal": lambda rng, shape: (
        rng.lognormal(0, 1, shape) - math.exp(0.5) - rng.normal(0, 1, shape)
    ),
}
"""Paired differences without effect; all but the last two are symmetric."""


def main() -> None:
    print("differences called skewed, per cent of experiments without effect")
    print_row("differences", [f"n = {n}" for n in SIZES])
    for name, draw in LAWS.items():
        print_row(name, [f"{100 * warned(drawn(draw, n)).mean():.1f}" for n in SIZES])
    print("\nthe same where the verdict claims an effect")
    print_row(
        "skewed (lognormal)",
        [f"{100 * among_claims(drawn(LAWS['skewed (lognormal)'], n)):.1f}" for n in SIZES],
    )


def drawn(draw: Draw, n: int) -> NDArray[np.float64]:
    return draw(generator(6, n), (REPEATS, n))


def warned(samples: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows of which the verdict's box says that they look skewed."""
    zs = [triples_z(samples[start : start + CHUNK], 1e-15) for start in range(0, len(samples), CHUNK)]
    return np.abs(np.concatenate(zs)) >= CRITICAL


def among_claims(samples: NDArray[np.float64]) -> float:
    claimed = np.isin(many.verdicts_of(samples), CLAIMS)
    return float(warned(samples[claimed]).mean())


if __name__ == "__main__":
    main()
