import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.spikes import CALM, spikes_of

STEPS = np.arange(1, 101, dtype=float)


def curve(seed=0, noise=0.01, trend=1.0):
    """A falling loss with a little noise."""
    return 2 + trend * np.exp(-3 * STEPS / 100) + np.random.default_rng(seed).normal(0, noise, len(STEPS))


def episodes(*curves):
    lines = np.array(curves)
    return spikes_of(lines, np.tile(STEPS, (len(lines), 1))).episodes.tolist()


def plus(values, places, height):
    raised = values.copy()
    raised[places] += height
    return raised


def test_a_calm_falling_loss_has_no_spikes():
    assert episodes(*(curve(seed) for seed in range(20))) == [0] * 20


def test_consecutive_spikes_are_one_episode_and_separate_ones_are_two():
    assert episodes(plus(curve(), [40, 41, 42], 1.0), plus(curve(), [40, 60], 1.0)) == [1, 2]


def test_a_spike_does_not_hide_the_next_one_by_raising_the_noise():
    assert episodes(plus(curve(), [40, 44, 48, 52], 1.0)) == [4]


def test_a_jump_below_five_percent_of_the_level_is_none():
    assert episodes(plus(curve(noise=1e-6), [50], 0.08), plus(curve(noise=1e-6), [50], 0.2)) == [0, 1]


def test_a_jump_within_the_noise_is_none():
    assert episodes(plus(curve(noise=0.2), [50], 0.3)) == [0]


def test_a_lasting_rise_is_one_episode_and_then_the_new_level():
    risen = curve()
    risen[40:] += 5.0

    assert episodes(risen, plus(risen, [80], 3.0)) == [1, 2]


def test_the_rate_counts_the_steps_that_could_hold_an_episode():
    found = spikes_of(plus(curve(), [40, 60], 1.0)[None], 10 * STEPS[None])

    assert found.per_1000[0] == pytest.approx(2 * 1000 / (1000 - 10 * CALM))
    assert np.flatnonzero(found.spikes[0]).tolist() == [40, 60]


def test_a_run_too_short_to_know_what_is_calm_has_no_number():
    values = np.where(STEPS <= CALM, curve(), np.nan)

    assert np.isnan(spikes_of(values[None], STEPS[None]).episodes).all()
    assert np.isnan(spikes_of(values[None, :CALM], STEPS[None, :CALM]).per_1000).all()


def test_a_short_run_beside_a_long_one_keeps_its_own_count():
    short = np.where(STEPS <= 60, plus(curve(), [40], 1.0), np.nan)

    assert episodes(short, plus(curve(1), [40, 80], 1.0)) == [1, 2]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.integers(-20, 20), st.lists(st.integers(CALM, 99), max_size=5))
def test_the_unit_of_the_loss_does_not_matter(seed, exponent, places):
    values = plus(curve(seed, noise=0.05), places, 1.0)

    assert episodes(values) == episodes(values * 2.0**exponent)
