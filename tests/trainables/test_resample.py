"""Layer pairs and time: endpoints kept, order kept, padding and other rows without influence."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.aligners import layer_map, resample_time
from trainables.config import InputError
from trainables.kv_cache import KVCache


def counting_cache(real: list[int], time: int) -> KVCache:
    """Keys at t hold t, values head - 10 t, padding nan: whatever was interpolated can be read off."""
    mask = torch.arange(time) < torch.tensor(real)[:, None]
    keys = torch.arange(float(time)).view(1, 1, 1, time, 1).expand(len(real), 2, 3, time, 2)
    keys = keys.masked_fill(~mask[:, None, None, :, None], math.nan)
    return KVCache(keys, -10 * keys + torch.arange(3.0).view(1, 1, 3, 1, 1), mask)


@settings(deadline=None)
@given(source=st.integers(1, 40), target=st.integers(2, 40))
def test_endpoints_pairs_first_with_first_last_with_last_and_spreads_the_rest(
    source: int, target: int
) -> None:
    pairs = layer_map(source, target, "endpoints").tolist()

    half = Fraction(1, 2)
    assert pairs == [math.floor(Fraction(i * (source - 1), target - 1) + half) for i in range(target)]
    assert (pairs[0], pairs[-1]) == (0, source - 1)
    assert pairs == sorted(pairs)


def test_a_half_is_rounded_up_and_a_single_target_layer_gets_the_last() -> None:
    assert layer_map(4, 3, "endpoints").tolist() == [0, 2, 3]  # 1.5 -> 2
    assert layer_map(6, 3, "endpoints").tolist() == [0, 3, 5]  # 2.5 -> 3, not to even
    assert layer_map(7, 1, "endpoints").tolist() == [6]


def test_last_aligned_pairs_from_the_last_layer_backwards() -> None:
    assert layer_map(6, 3, "last_aligned").tolist() == [3, 4, 5]
    assert layer_map(3, 5, "last_aligned").tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("method", ["endpoints", "last_aligned"])
def test_equal_depths_pair_every_layer_with_itself(method: str) -> None:
    for layers in range(1, 13):
        assert layer_map(layers, layers, method).tolist() == list(range(layers))  # type: ignore[arg-type]


def test_an_unknown_layer_map_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="endpoints, last_aligned"):
        layer_map(2, 3, "middle")  # type: ignore[arg-type]


@settings(deadline=None)
@given(real=st.lists(st.integers(0, 12), min_size=1, max_size=4), length=st.integers(1, 9))
def test_short_rows_keep_their_entries_and_long_ones_are_interpolated(real: list[int], length: int) -> None:
    slots = resample_time(counting_cache(real, 12), length)

    assert slots.keys.shape == (len(real), 2, 3, length, 2)
    for b, n in enumerate(real):
        wanted = np.linspace(0, n - 1, length) if n > length else np.arange(n)
        assert slots.mask[b].tolist() == [t < n for t in range(length)]
        kept = torch.as_tensor(wanted, dtype=torch.float32)
        torch.testing.assert_close(slots.keys[b, 1, 2, : len(wanted), 0], kept)
        torch.testing.assert_close(slots.values[b, 1, 2, : len(wanted), 1], -10 * kept + 2)


def test_the_chain_may_have_fewer_positions_than_there_are_slots() -> None:
    slots = resample_time(counting_cache([3, 2], 3), 5)

    assert slots.mask.tolist() == [[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]
    assert slots.keys[0, 0, 0, :3, 0].tolist() == [0, 1, 2]


@settings(max_examples=30, deadline=None)
@given(
    real=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    length=st.integers(1, 6),
    extra=st.integers(1, 9),
    fill=st.sampled_from([0.0, math.inf, math.nan]),
    left=st.booleans(),
)
def test_padding_changes_nothing_bit_for_bit(
    real: list[int], length: int, extra: int, fill: float, left: bool
) -> None:
    torch.manual_seed(0)
    mask = torch.arange(9) < torch.tensor(real)[:, None]
    keys, values = torch.randn(2, len(real), 2, 3, 9, 4).unbind(0)
    filler, none = (
        torch.full((len(real), 2, 3, extra, 4), fill),
        torch.zeros(len(real), extra, dtype=torch.bool),
    )
    pair = (lambda a, b: [b, a]) if left else (lambda a, b: [a, b])
    longer = KVCache(
        torch.cat(pair(keys, filler), 3), torch.cat(pair(values, filler), 3), torch.cat(pair(mask, none), 1)
    )

    clean, noisy = resample_time(KVCache(keys, values, mask), length), resample_time(longer, length)

    seen = clean.full_mask[..., None]
    assert torch.equal(noisy.mask, clean.mask)
    assert torch.equal(noisy.keys.where(seen, 0), clean.keys.where(seen, 0))
    assert torch.equal(noisy.values.where(seen, 0), clean.values.where(seen, 0))


def test_rows_of_different_lengths_do_not_touch_each_other() -> None:
    together = resample_time(counting_cache([11, 2, 7], 12), 4)

    for b, n in enumerate([11, 2, 7]):
        alone = resample_time(counting_cache([n], 12), 4)
        seen = alone.mask[0]
        assert torch.equal(together.mask[b], seen)
        assert torch.equal(together.keys[b][:, :, seen], alone.keys[0][:, :, seen])


def test_a_mask_per_layer_and_head_keeps_its_form_and_its_own_lengths() -> None:
    cache = counting_cache([8], 8)
    mask = cache.full_mask.clone()
    mask[0, 1, 2, :5] = False

    slots = resample_time(KVCache(cache.keys, cache.values, mask), 4)

    assert slots.mask.shape == (1, 2, 3, 4)
    assert slots.mask[0, 1, 2].tolist() == [True, True, True, False]
    assert slots.keys[0, 1, 2, :3, 0].tolist() == [5, 6, 7]
    torch.testing.assert_close(slots.keys[0, 0, 0, :, 0], torch.linspace(0, 7, 4))


def test_gradient_reaches_real_entries_and_no_padding() -> None:
    keys = torch.randn(2, 1, 1, 6, 2)
    keys[1, :, :, 3:] = math.nan
    keys.requires_grad_()
    cache = KVCache(keys, keys, torch.tensor([[True] * 6, [True] * 3 + [False] * 3]))

    slots = resample_time(cache, 6)
    slots.keys.where(slots.full_mask[..., None], 0).sum().backward()

    assert keys.grad is not None
    assert (keys.grad[0] == 1).all()
    assert (keys.grad[1, :, :, :3] == 1).all()
    assert (keys.grad[1, :, :, 3:] == 0).all()


def test_no_slot_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 slot"):
        resample_time(counting_cache([3], 3), 0)
