"""Losses: values by hand, rows and padding without influence, gradients where they belong and only there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from trainables.aligners import build_aligner
from trainables.config import DistillConfig, InputError, KVLoss
from trainables.kv_cache import CacheShape, KVCache
from trainables.losses import KV_LOSSES, STD_FLOOR, Standardiser, answer_loss, hidden_state_loss, kv_loss

KINDS = sorted(KV_LOSSES)
GARBAGE = [math.nan, math.inf, -math.inf, 1e30]


def random_cache(real: tuple[int, ...] = (5, 3), time: int = 5, seed: int = 0, scale: float = 1.0) -> KVCache:
    generator = torch.Generator().manual_seed(seed)
    keys, values = scale * torch.randn(2, len(real), 2, 3, time, 4, generator=generator)
    return KVCache(keys, values, torch.arange(time) < torch.tensor(real)[:, None])


def with_fill(cache: KVCache, fill: float) -> KVCache:
    seen = cache.full_mask[..., None]
    return KVCache(cache.keys.where(seen, fill), cache.values.where(seen, fill), cache.mask)


def lengthened(cache: KVCache, extra: int, fill: float) -> KVCache:
    padding = (0, 0, 0, extra)
    return KVCache(
        F.pad(cache.keys, padding, value=fill),
        F.pad(cache.values, padding, value=fill),
        F.pad(cache.mask, (0, extra)),
    )


def by_hand(kind: str, x: float) -> float:
    """The distance of two numbers that differ by x, from its definition."""
    if kind == "mse":
        return x * x
    if kind == "l1" or abs(x) >= 1:
        return abs(x) - (0.5 if kind == "smooth_l1" else 0)
    return 0.5 * x * x


def test_every_kv_loss_of_the_config_is_in_the_table() -> None:
    assert set(KV_LOSSES) == set(get_args(KVLoss))


@pytest.mark.parametrize("kind", KINDS)
def test_kv_loss_is_the_mean_over_a_row_s_real_numbers_keys_and_values_half_each(kind: str) -> None:
    predicted, target = random_cache(seed=1, scale=2), random_cache(seed=2)

    losses = kv_loss(predicted, target, kind=kind)

    for b, n in enumerate((5, 3)):
        halves = []
        for one, other in ((predicted.keys, target.keys), (predicted.values, target.values)):
            differences = (one - other)[b, :, :, :n].flatten().tolist()
            halves.append(sum(by_hand(kind, x) for x in differences) / len(differences))
        assert float(losses[b]) == pytest.approx(sum(halves) / 2, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_with_itself_has_no_distance_and_with_another_has_some(kind: str) -> None:
    cache = random_cache()

    assert (kv_loss(cache, cache, kind=kind) == 0).all()
    assert (kv_loss(cache, random_cache(seed=1), kind=kind) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fill", GARBAGE)
def test_garbage_under_a_mask_reaches_neither_the_kv_loss_nor_a_gradient(kind: str, fill: float) -> None:
    clean, dirty = random_cache(seed=1), with_fill(random_cache(seed=1), fill)
    for cache in (clean, dirty):
        cache.keys.requires_grad_()
        cache.values.requires_grad_()
    target = random_cache(seed=2)

    expected, loss = kv_loss(clean, target, kind=kind), kv_loss(dirty, with_fill(target, fill), kind=kind)
    expected.sum().backward()
    loss.sum().backward()

    assert torch.equal(loss, expected)
    for noisy, calm in ((dirty.keys, clean.keys), (dirty.values, clean.values)):
        assert noisy.grad is not None
        assert calm.grad is not None
        assert torch.equal(noisy.grad, calm.grad)
        assert (noisy.grad[1, :, :, 3:] == 0).all()
        assert (noisy.grad != 0)[clean.full_mask].all()


@settings(max_examples=25, deadline=None)
@given(
    real=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    extra=st.integers(1, 40),
    fill=st.sampled_from([0.0, *GARBAGE]),
    kind=st.sampled_from(KINDS),
)
def test_more_padding_and_other_rows_leave_a_row_s_kv_loss_as_it_is(
    real: list[int], extra: int, fill: float, kind: str
) -> None:
    predicted, target = random_cache(tuple(real), seed=1), random_cache(tuple(real), seed=2)

    losses = kv_loss(predicted, target, kind=kind)
    padded = kv_loss(lengthened(predicted, extra, fill), lengthened(target, extra, fill), kind=kind)

    assert torch.equal(padded, losses)
    for b in range(len(real)):
        row = torch.tensor([b])
        assert torch.equal(kv_loss(predicted.rows(row), target.rows(row), kind=kind)[0], losses[b])


def test_a_row_s_kv_loss_sends_gradient_to_that_row_alone() -> None:
    cache = random_cache()
    cache.keys.requires_grad_()

    kv_loss(cache, random_cache(seed=1), kind="mse")[0].backward()

    assert cache.keys.grad is not None
    assert (cache.keys.grad[0] != 0).all()
    assert (cache.keys.grad[1] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_a_real_entry_costs_nothing_and_keeps_its_gradient_path(kind: str) -> None:
    cache = with_fill(random_cache((0, 0)), math.nan)
    cache.keys.requires_grad_()

    loss = kv_loss(cache, random_cache((0, 0), seed=1), kind=kind)
    loss.sum().backward()

    assert loss.tolist() == [0, 0]
    assert cache.keys.grad is not None
    assert (cache.keys.grad == 0).all()


def test_only_entries_that_are_real_on_both_sides_count_in_either_form_of_mask() -> None:
    predicted, target = random_cache((5, 5), seed=1), random_cache((5, 5), seed=2)
    own = torch.rand(2, 2, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    early = torch.arange(5).expand(2, 5) < 3

    loss = kv_loss(
        KVCache(predicted.keys, predicted.values, own), KVCache(target.keys, target.values, early), kind="l1"
    )

    both = own & early[:, None, None]
    for b in range(2):
        keys = (predicted.keys - target.keys)[b][both[b]].abs().mean()
        values = (predicted.values - target.values)[b][both[b]].abs().mean()
        torch.testing.assert_close(loss[b], (keys + values) / 2)


def test_bfloat16_caches_are_compared_in_float32_and_float64_ones_in_float64() -> None:
    one, other = random_cache(seed=1), random_cache(seed=2)
    narrow = [KVCache(c.keys.bfloat16(), c.values.bfloat16(), c.mask) for c in (one, other)]
    double = [KVCache(c.keys.double(), c.values.double(), c.mask) for c in (one, other)]

    assert torch.equal(
        kv_loss(*narrow, kind="mse"), kv_loss(narrow[0].float(), narrow[1].float(), kind="mse")
    )
    assert kv_loss(*double, kind="mse").dtype == torch.float64


def test_an_unknown_kv_loss_and_caches_of_two_shapes_are_refused() -> None:
    cache = random_cache()

    with pytest.raises(InputError, match="Did you mean 'smooth_l1'"):
        kv_loss(cache, cache, kind="smooth_l")
    with pytest.raises(ValueError, match="one shape"):
        kv_loss(cache, cache.layers(torch.tensor([0])), kind="mse")


def loss_of(logits: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return answer_loss(logits, labels, mask, int(mask.sum()))


def test_answer_loss_is_the_mean_negative_log_probability_of_the_real_labels() -> None:
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 6, 0, 2], [3, 3, -100, -100]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])

    mean, nats, count = loss_of(logits, labels, mask)

    for b, n in enumerate((4, 2)):
        p = logits[b].softmax(-1)
        wanted = sum(-math.log(float(p[t, labels[b, t]])) for t in range(n))
        assert float(nats[b]) == pytest.approx(wanted, rel=1e-5)
        assert float(mean[b]) == pytest.approx(wanted / n, rel=1e-5)
    assert count.tolist() == [4, 2]


@pytest.mark.parametrize("fill", GARBAGE)
def test_garbage_under_a_mask_reaches_neither_the_answer_loss_nor_a_gradient(fill: float) -> None:
    clean = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True] * 5, [False, True, True, False, False]])
    dirty = clean.where(mask[..., None], fill)
    clean.requires_grad_()
    dirty.requires_grad_()

    expected, loss = (
        loss_of(clean, labels, mask)[0],
        loss_of(dirty, labels.where(mask, 10**6), mask)[0],
    )
    expected.sum().backward()
    loss.sum().backward()

    assert torch.equal(loss, expected)
    assert dirty.grad is not None
    assert clean.grad is not None
    assert torch.equal(dirty.grad, clean.grad)
    assert ((dirty.grad != 0).all(-1) == mask).all()


@settings(max_examples=25, deadline=None)
@given(real=st.lists(st.integers(0, 6), min_size=1, max_size=4), extra=st.integers(1, 50))
def test_more_padding_and_other_rows_leave_a_row_s_answer_loss_as_it_is(real: list[int], extra: int) -> None:
    generator = torch.Generator().manual_seed(sum(real))
    logits = torch.randn(len(real), 6, 9, generator=generator)
    labels = torch.randint(9, (len(real), 6), generator=generator)
    mask = torch.arange(6) < torch.tensor(real)[:, None]

    mean, nats, count = loss_of(logits, labels, mask)
    padded = loss_of(
        F.pad(logits, (0, 0, 0, extra), value=math.nan),
        F.pad(labels, (0, extra), value=-100),
        F.pad(mask, (0, extra)),
    )

    assert all(torch.equal(a, b) for a, b in zip(padded, (mean, nats, count), strict=True))
    for b in range(len(real)):
        torch.testing.assert_close(
            loss_of(logits[b : b + 1], labels[b : b + 1], mask[b : b + 1])[1][0], nats[b]
        )


def test_a_batch_without_answer_tokens_costs_nothing_and_keeps_its_gradient_path() -> None:
    logits = torch.full((2, 3, 4), math.nan, requires_grad=True)

    mean, nats, count = loss_of(logits, torch.full((2, 3), -100), torch.zeros(2, 3, dtype=torch.bool))
    mean.sum().backward()

    assert mean.tolist() == nats.tolist() == count.tolist() == [0, 0]
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_bfloat16_logits_are_summed_up_in_float32() -> None:
    logits = torch.randn(1, 3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels, mask = torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool)

    mean, nats, _ = loss_of(logits, labels, mask)

    assert mean.dtype == nats.dtype == torch.float32
    assert torch.equal(mean, loss_of(logits.float(), labels, mask)[0])


def test_hidden_state_loss_is_smooth_l1_in_units_of_the_teacher_s_deviation() -> None:
    student = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])
    teacher = torch.tensor([[[1.0, -4.0], [10.0, 0.0]]])

    loss = hidden_state_loss(student, teacher, torch.tensor([2.0, 10.0]))

    differences = [0.5, 2.0, 1.0, 0.0]
    assert float(loss) == pytest.approx(sum(by_hand("smooth_l1", x) for x in differences) / 4)


@settings(deadline=None)
@given(factor=st.floats(1e-3, 1e3))
def test_the_units_of_a_layer_do_not_matter_to_the_hidden_state_loss(factor: float) -> None:
    student, teacher = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.5, 1.0, 2.0, 4.0])
    units = torch.tensor([1.0, factor, 1.0, 1.0])

    plain = hidden_state_loss(student, teacher, scale)
    scaled = hidden_state_loss(student * units[:, None], teacher * units[:, None], scale * units)

    torch.testing.assert_close(scaled, plain)


def test_hidden_state_loss_trains_the_student_and_not_the_teacher_row_by_row() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    student.requires_grad_()
    teacher.requires_grad_()

    loss = hidden_state_loss(student, teacher, torch.ones(4))
    loss[1].backward()

    assert loss.shape == (3,)
    assert teacher.grad is None
    assert student.grad is not None
    assert (student.grad[1] != 0).all()
    assert (student.grad[[0, 2]] == 0).all()
    with pytest.raises(ValueError, match="scale"):
        hidden_state_loss(student, teacher, torch.ones(3))


def real_entries(caches: list[KVCache], which: Callable[[KVCache], Tensor]) -> Tensor:
    """All real positions of all caches side by side: [L H positions D]."""
    rows = [which(c)[b][:, :, c.mask[b]] for c in caches for b in range(len(c.mask))]
    return torch.cat(rows, dim=2).double()


def calibration() -> list[KVCache]:
    """Three batches of different length, with an offset that a careless sum of squares would drown in."""
    caches = [random_cache((5, 3), seed=1), random_cache((1,), seed=2), random_cache((4, 0, 2), seed=3)]
    offset = torch.arange(1, 5) * 1000.0
    return [with_fill(KVCache(c.keys + offset, c.values * 3 - 7, c.mask), math.nan) for c in caches]


def test_the_standardiser_has_the_mean_and_deviation_of_all_real_positions() -> None:
    caches = calibration()

    fitted = Standardiser.fit(iter(caches))

    keys, values = real_entries(caches, lambda c: c.keys), real_entries(caches, lambda c: c.values)
    for x, mean, std in (
        (keys, fitted.keys_mean, fitted.keys_std),
        (values, fitted.values_mean, fitted.values_std),
    ):
        torch.testing.assert_close(mean.double(), x.mean(2, keepdim=True), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(std.double(), x.std(2, correction=0, keepdim=True), rtol=1e-5, atol=0)


def test_standardised_caches_have_mean_zero_and_deviation_one_and_keep_their_mask() -> None:
    caches = calibration()
    fitted = Standardiser.fit(caches)

    done = [fitted(cache) for cache in caches]

    assert all(torch.equal(one.mask, cache.mask) for one, cache in zip(done, caches, strict=True))
    values = real_entries(done, lambda c: c.values)
    torch.testing.assert_close(values.mean(2), torch.zeros_like(values.mean(2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.square().mean(2), torch.ones_like(values.mean(2)), atol=1e-4, rtol=0)


def test_how_the_calibration_is_cut_into_batches_and_padded_does_not_matter() -> None:
    whole = random_cache((5, 3, 4, 1), seed=4)
    cut = [lengthened(whole.rows(torch.tensor([b])), b, math.inf) for b in range(4)]

    one, other = Standardiser.fit([whole]).state_dict(), Standardiser.fit(cut).state_dict()

    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor)


def test_a_constant_dimension_is_floored_and_a_constant_layer_divided_by_one() -> None:
    cache = random_cache((5, 5), seed=1)
    cache.keys[..., 2] = 8.25
    cache.keys[:, 1] = 3.1

    fitted = Standardiser.fit([cache])

    spread = real_entries([cache], lambda c: c.keys)[0].std(1, correction=0).mean()
    torch.testing.assert_close(fitted.keys_std[0, :, 0, 2], torch.full((3,), float(STD_FLOOR * spread)))
    assert (fitted.keys_std[1] == 1).all()
    assert (fitted(cache).keys[..., 2].abs() < 1e-3).all()


def test_a_standardiser_is_frozen_and_comes_back_from_its_tensors() -> None:
    cache = random_cache()
    cache.keys.requires_grad_()
    fitted = Standardiser.fit([cache])

    again = Standardiser(**load(save(fitted.state_dict())))

    assert list(fitted.parameters()) == []
    assert not any(tensor.requires_grad for tensor in fitted.state_dict().values())
    assert torch.equal(again(cache).keys, fitted(cache).keys)
    assert again(cache).keys.requires_grad


def test_too_little_to_calibrate_on_and_a_cache_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two real positions"):
        Standardiser.fit([random_cache((1, 0))])
    with pytest.raises(ValueError, match="at least two real positions"):
        Standardiser.fit([])
    with pytest.raises(ValueError, match="fitted on 2 layers"):
        Standardiser.fit([random_cache()])(random_cache().layers(torch.tensor([0])))


def fitted_target_rms(joint: bool) -> float:
    """Trains an aligner to please the KV loss; the root mean square of its final target."""
    shape = CacheShape(2, 3, 4)
    teacher, student = random_cache((200,), 200, seed=1), random_cache((200,), 200, seed=2)
    aligner = build_aligner(DistillConfig(alignment_mode="flat"), shape, shape)
    fixed = Standardiser.fit([teacher])(teacher)
    optimizer = torch.optim.Adam(aligner.parameters(), lr=0.05)
    for _ in range(80):
        pair = (student, aligner(teacher)) if joint else (aligner(student), fixed)
        optimizer.zero_grad()
        kv_loss(*pair, kind="mse").sum().backward()
        optimizer.step()
    target = aligner(teacher).keys if joint else fixed.keys
    return float(target.detach().square().mean().sqrt())


def test_a_learned_target_collapses_and_a_fixed_standardised_one_cannot() -> None:
    """Two unrelated caches: a map of the target pleases the loss best by shrinking what is to be met."""
    assert fitted_target_rms(joint=True) < 0.4
    assert fitted_target_rms(joint=False) == pytest.approx(1, abs=1e-3)
