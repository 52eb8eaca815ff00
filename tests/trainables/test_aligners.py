"""Alignment: both modes start alike, keep the layout, and let nothing leak between rows or out of padding."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.aligners import (
    ALIGNERS,
    Aligner,
    build_aligner,
    layer_map,
    matched_flat_rank,
    parameter_count,
    uniform_head_sharing,
)
from trainables.config import AlignmentMode, DistillConfig, InputError
from trainables.kv_cache import CacheShape, KVCache
from trainables.streams import stream

STUDENT, TEACHER = CacheShape(3, 2, 6), CacheShape(4, 4, 8)
PAIRS = [
    (STUDENT, TEACHER),
    (TEACHER, STUDENT),
    (CacheShape(2, 3, 8), CacheShape(2, 2, 8)),
    (CacheShape(2, 1, 4), CacheShape(5, 5, 7)),
]
FLAT: dict[str, Any] = {"alignment_mode": "flat"}
STRUCTURED: dict[str, Any] = {
    "alignment_mode": "structured",
    "map_proj_share_dim": True,
    "map_proj_init_uniform": True,
}
PER_HEAD = {**STRUCTURED, "map_proj_share_dim": False}
EVERY_KIND: list[dict[str, Any]] = [
    FLAT,
    {**FLAT, "flat_rank": 5},
    {**FLAT, "flat_init": "random"},
    {**FLAT, "flat_init": "random", "flat_rank": 3},
    STRUCTURED,
    PER_HEAD,
    {"alignment_mode": "structured"},
]
every_kind = pytest.mark.parametrize("fields", EVERY_KIND, ids=str)


def build(
    fields: dict[str, Any], source: CacheShape = STUDENT, target: CacheShape = TEACHER, seed: int = 0
) -> Aligner:
    return build_aligner(DistillConfig(seed=seed, **fields), source, target)


def random_cache(shape: CacheShape, real: tuple[int, ...] = (5, 3), time: int = 5, seed: int = 0) -> KVCache:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, len(real), shape.layers, shape.heads, time, shape.head_dim, generator=generator)
    return KVCache(drawn[0], drawn[1], torch.arange(time) < torch.tensor(real)[:, None])


def with_fill(cache: KVCache, fill: float) -> KVCache:
    seen = cache.full_mask[..., None]
    return KVCache(cache.keys.where(seen, fill), cache.values.where(seen, fill), cache.mask)


def real_sum(cache: KVCache) -> Tensor:
    seen = cache.full_mask[..., None]
    return (cache.keys.where(seen, 0) ** 2).sum() + (cache.values.where(seen, 0) ** 2).sum()


def gradients(aligner: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in aligner.named_parameters() if p.grad is not None}


def test_every_mode_of_the_config_has_its_aligner() -> None:
    assert set(ALIGNERS) == set(get_args(AlignmentMode))


@settings(deadline=None)
@given(inputs=st.integers(1, 33), outputs=st.integers(1, 33))
def test_uniform_sharing_has_rows_that_sum_to_one_and_uses_every_head_equally(
    inputs: int, outputs: int
) -> None:
    sharing = uniform_head_sharing(inputs, outputs)

    assert sharing.shape == (outputs, inputs)
    assert (sharing >= 0).all()
    torch.testing.assert_close(sharing.sum(1), torch.ones(outputs))
    torch.testing.assert_close(sharing.sum(0), torch.full((inputs,), outputs / inputs))
    if inputs == outputs:
        assert torch.equal(sharing, torch.eye(inputs))


def test_uniform_sharing_is_group_means_one_way_copies_the_other_and_fractions_between() -> None:
    assert uniform_head_sharing(4, 2).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert uniform_head_sharing(2, 4).tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    torch.testing.assert_close(uniform_head_sharing(3, 2), torch.tensor([[2, 1, 0], [0, 1, 2]]) / 3)


@every_kind
@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
def test_the_output_has_the_target_s_shape_and_the_source_s_time_and_mask(
    fields: dict[str, Any], source: CacheShape, target: CacheShape
) -> None:
    cache = random_cache(source)

    aligned = build({**fields, **({"flat_rank": 2} if "flat_rank" in fields else {})}, source, target)(cache)

    assert aligned.shape == target
    assert aligned.keys.shape[3] == 5
    assert torch.equal(aligned.mask, cache.mask)
    assert real_sum(aligned).isfinite()


@pytest.mark.parametrize("structured", [STRUCTURED, PER_HEAD], ids=["shared", "per head"])
@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
@pytest.mark.parametrize("seed", [0, 7])
def test_both_modes_start_as_the_same_function(
    structured: dict[str, Any], source: CacheShape, target: CacheShape, seed: int
) -> None:
    cache = random_cache(source, seed=seed)

    flat, other = build(FLAT, source, target, seed)(cache), build(structured, source, target, seed)(cache)

    torch.testing.assert_close(flat.keys, other.keys)
    torch.testing.assert_close(flat.values, other.values)
    if source.head_dim != target.head_dim:
        assert not torch.allclose(flat.keys, build(FLAT, source, target, seed + 1)(cache).keys)


def test_like_shapes_start_as_the_identity() -> None:
    cache = random_cache(TEACHER)

    for fields in (FLAT, STRUCTURED, PER_HEAD):
        aligned = build(fields, TEACHER, TEACHER)(cache)
        torch.testing.assert_close(aligned.keys[0], cache.keys[0])
        torch.testing.assert_close(aligned.values[1, ..., :3, :], cache.values[1, ..., :3, :])


@pytest.mark.parametrize(("source", "target"), PAIRS[:2], ids=str)
def test_dimension_maps_start_with_orthonormal_rows_or_columns_apart_for_keys_values_and_layers(
    source: CacheShape, target: CacheShape
) -> None:
    aligner = build(STRUCTURED, source, target)
    keys, values = aligner.keys.dims.detach(), aligner.values.dims.detach()

    gram = keys @ keys.mT if keys.shape[1] <= keys.shape[2] else keys.mT @ keys
    torch.testing.assert_close(gram, torch.eye(6).expand_as(gram), atol=1e-5, rtol=0)
    assert not torch.allclose(keys, values)
    assert not torch.allclose(keys[0], keys[1])


def test_random_head_sharing_has_positive_rows_that_sum_to_one_and_shares_the_dimension_maps() -> None:
    drawn, uniform = build({"alignment_mode": "structured"}), build(STRUCTURED)

    heads = drawn.keys.heads.detach()
    assert (heads > 0).all()
    torch.testing.assert_close(heads.sum(-1), torch.ones(4, 4))
    assert not torch.allclose(heads, drawn.values.heads)
    for head in range(TEACHER.heads):
        assert torch.equal(drawn.keys.dims[:, head], uniform.keys.dims)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    for fields in EVERY_KIND:
        one, same, other = build(fields, seed=3), build(fields, seed=3), build(fields, seed=4)
        for name, weight in one.state_dict().items():
            assert torch.equal(weight, same.state_dict()[name]), (fields, name)
        assert any(not torch.equal(w, other.state_dict()[name]) for name, w in one.state_dict().items())


def test_a_generator_given_is_used_in_place_of_the_seed_s_own() -> None:
    config = DistillConfig(seed=3, **FLAT)

    given_ = build_aligner(config, STUDENT, TEACHER, generator=stream(9, "aligner_init"))

    assert torch.equal(given_.keys.weight, build(FLAT, seed=9).keys.weight)


def test_building_an_aligner_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()

    for fields in EVERY_KIND:
        build(fields)

    assert torch.equal(torch.get_rng_state(), before)


def slow_structured(aligner: Aligner, which: str, x: Tensor) -> Tensor:
    """The formula of one layer, head and position at a time; x is [L_s H_s D_s] of one row and position."""
    module = getattr(aligner, which)
    pairs = layer_map(aligner.source.layers, aligner.target.layers, "endpoints").tolist()
    layers = []
    for l, source_layer in enumerate(pairs):
        heads = []
        for g in range(aligner.target.heads):
            mixed = sum(module.heads[l, g, h] * x[source_layer, h] for h in range(aligner.source.heads))
            dims = module.dims[l] if module.dims.dim() == 3 else module.dims[l, g]
            heads.append(dims @ mixed)
        layers.append(torch.stack(heads))
    return torch.stack(layers)


@pytest.mark.parametrize("fields", [STRUCTURED, PER_HEAD, {"alignment_mode": "structured"}], ids=str)
def test_structured_is_head_mixing_then_dimension_map_per_layer(fields: dict[str, Any]) -> None:
    aligner, cache = build(fields), random_cache(STUDENT, real=(5,))
    for parameter in aligner.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))

    aligned = aligner(cache)

    for t in range(5):
        keys, values = aligned.keys[0, :, :, t], aligned.values[0, :, :, t]
        torch.testing.assert_close(keys, slow_structured(aligner, "keys", cache.keys[0, :, :, t]))
        torch.testing.assert_close(values, slow_structured(aligner, "values", cache.values[0, :, :, t]))


def test_flat_is_one_matrix_of_the_flattened_heads_per_layer() -> None:
    aligner, cache = build({**FLAT, "flat_init": "random"}), random_cache(STUDENT, real=(5,))

    aligned = aligner(cache)

    for l, source_layer in enumerate(layer_map(3, 4, "endpoints").tolist()):
        vector = cache.values[0, source_layer, :, 2].flatten()  # [H_s * D_s], head by head
        torch.testing.assert_close(aligned.values[0, l, :, 2].flatten(), aligner.values.weight[l] @ vector)


@every_kind
def test_the_map_is_linear_and_acts_on_each_position_alone(fields: dict[str, Any]) -> None:
    aligner = build(fields)
    x, y = random_cache(STUDENT, real=(5, 5), seed=1), random_cache(STUDENT, real=(5, 5), seed=2)

    mixed = aligner(KVCache(2 * x.keys - y.keys, x.values, x.mask)).keys
    flipped = aligner(KVCache(x.keys.flip(3), x.values.flip(3), x.mask))

    torch.testing.assert_close(mixed, 2 * aligner(x).keys - aligner(y).keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(flipped.keys, aligner(x).keys.flip(3))


@every_kind
@pytest.mark.parametrize("fill", [math.nan, math.inf, 1e30])
def test_what_stands_in_padding_reaches_no_output_and_no_gradient(
    fields: dict[str, Any], fill: float
) -> None:
    clean, noisy = build(fields), build(fields)
    cache = random_cache(STUDENT)
    dirty = with_fill(cache, fill)
    dirty.keys.requires_grad_()
    dirty.values.requires_grad_()

    expected, aligned = clean(cache), noisy(dirty)
    real_sum(expected).backward()
    real_sum(aligned).backward()

    seen = cache.full_mask[:, :1, :1, :, None]
    torch.testing.assert_close(aligned.keys.where(seen, 0), expected.keys.where(seen, 0))
    torch.testing.assert_close(gradients(noisy), gradients(clean))
    assert dirty.keys.grad is not None
    assert (dirty.keys.grad[1, :, :, 3:] == 0).all()


@every_kind
def test_rows_do_not_touch_each_other_and_more_padding_changes_nothing(fields: dict[str, Any]) -> None:
    aligner, cache = build(fields), random_cache(STUDENT)
    longer = random_cache(STUDENT, time=9, seed=5)
    longer.keys[..., :5, :], longer.values[..., :5, :] = cache.keys, cache.values

    together, padded = aligner(cache), aligner(longer)

    for b, n in enumerate((5, 3)):
        alone = aligner(cache.rows(torch.tensor([b])))
        torch.testing.assert_close(together.keys[b], alone.keys[0])
        torch.testing.assert_close(padded.values[b, :, :, :n], alone.values[0, :, :, :n])


@every_kind
def test_every_weight_and_every_real_source_entry_gets_gradient(fields: dict[str, Any]) -> None:
    aligner = build({**fields, "layer_map": "last_aligned"})
    cache = random_cache(STUDENT)
    cache.keys.requires_grad_()
    cache.values.requires_grad_()
    target = random_cache(TEACHER, seed=9)

    aligned = aligner(cache)
    difference = KVCache(aligned.keys - target.keys, aligned.values - target.values, aligned.mask)
    real_sum(difference).backward()

    assert all((grad != 0).any() for grad in gradients(aligner).values())
    assert set(gradients(aligner)) == {name for name, _ in aligner.named_parameters()}
    for source in (cache.keys, cache.values):
        assert source.grad is not None
        assert (source.grad != 0).any(-1)[cache.full_mask].all()


def test_a_low_rank_flat_map_is_stuck_in_none_of_its_directions() -> None:
    """Two heads copied to four and cut from 8 to 4 dimensions: a start of rank 8, in a map of rank 16."""
    source, target = CacheShape(1, 2, 8), CacheShape(1, 4, 4)
    aligner = build({**FLAT, "flat_rank": 16}, source, target)
    cache, goal = random_cache(source, real=(60,), time=60), random_cache(target, real=(60,), time=60, seed=3)

    difference = aligner(cache).keys - goal.keys
    difference.square().sum().backward()

    assert torch.linalg.matrix_rank(aligner.keys.up.detach(), tol=1e-5) == 8
    assert (aligner.keys.up.grad.norm(dim=1) > 1e-3).all()


@every_kind
def test_an_aligner_can_fit_a_linear_target_of_its_own_kind(fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    aligner, teacher = build(fields), build(fields, seed=5)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    cache = random_cache(STUDENT, real=(40,), time=40)
    goal = teacher(cache).detach()
    optimizer = torch.optim.Adam(aligner.parameters(), lr=0.05)

    losses = []
    for _ in range(60):
        aligned = aligner(cache)
        loss = real_sum(KVCache(aligned.keys - goal.keys, aligned.values - goal.values, cache.mask))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.1 * losses[0]


def test_parameters_are_what_the_formulas_say() -> None:
    flat, shared, per_head = (parameter_count(build(fields)) for fields in (FLAT, STRUCTURED, PER_HEAD))

    assert flat == 2 * 4 * (4 * 8) * (2 * 6)
    assert shared == 2 * 4 * (4 * 2 + 8 * 6)
    assert per_head == 2 * 4 * (4 * 2 + 4 * 8 * 6)
    assert parameter_count(build({**FLAT, "flat_rank": 5})) == 2 * 4 * 5 * (32 + 12)


@settings(deadline=None)
@given(
    heads=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    dims=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    share=st.booleans(),
)
def test_the_matched_rank_comes_as_close_to_the_structured_count_as_a_rank_can(
    heads: tuple[int, int], dims: tuple[int, int], share: bool
) -> None:
    source, target = CacheShape(1, heads[0], dims[0]), CacheShape(1, heads[1], dims[1])

    rank = matched_flat_rank(source, target, share)

    a_rank, full = heads[0] * dims[0] + heads[1] * dims[1], min(heads[0] * dims[0], heads[1] * dims[1])
    wanted = heads[0] * heads[1] + dims[0] * dims[1] * (1 if share else heads[1])
    assert 1 <= rank <= full
    if 1 < rank < full:
        assert abs(rank * a_rank - wanted) <= a_rank / 2


def test_the_matched_rank_s_arm_has_about_as_many_parameters() -> None:
    source, target = CacheShape(2, 2, 12), CacheShape(2, 4, 16)
    rank = matched_flat_rank(source, target, share_dim=True)

    matched = parameter_count(build({**FLAT, "flat_rank": rank}, source, target))

    assert abs(matched / parameter_count(build(STRUCTURED, source, target)) - 1) < 0.35


def test_a_full_low_rank_map_starts_as_the_full_map_and_a_lower_one_as_the_nearest_of_its_rank() -> None:
    full, whole = build(FLAT), build({**FLAT, "flat_rank": 12})
    low = build({**FLAT, "flat_rank": 5})

    matrix = full.keys.weight.detach()
    torch.testing.assert_close(whole.keys.up @ whole.keys.down, matrix)
    error = (low.keys.up @ low.keys.down - matrix).square().sum((1, 2))
    left_out = torch.linalg.svdvals(matrix)[:, 5:].square().sum(1)
    torch.testing.assert_close(error, left_out)


def test_a_rank_beyond_the_full_one_is_refused_with_the_limit() -> None:
    with pytest.raises(InputError, match="at most 12"):
        build({**FLAT, "flat_rank": 13})


def test_a_mask_per_layer_and_head_is_real_where_every_head_of_the_layer_is() -> None:
    mask = torch.ones(1, 3, 2, 5, dtype=torch.bool)
    mask[..., 4] = False
    mask[0, 0, 1, 2] = False
    cache = random_cache(STUDENT, real=(5,))

    aligned = build(STRUCTURED)(with_fill(KVCache(cache.keys, cache.values, mask), math.nan))

    assert aligned.mask.shape == (1, 4, 4, 5)
    assert not aligned.mask[..., 4].any()
    assert aligned.mask[0, 0, 0].tolist() == [True, True, False, True, False]
    assert (aligned.mask[0, 0] == aligned.mask[0, 0, :1]).all()
    assert aligned.mask[0, 1:, :, :4].all()
    assert aligned.keys.isfinite().all()


def test_a_cache_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match="3 layers x 2 key-value heads x 6, got one of 4 layers"):
        build(FLAT)(random_cache(TEACHER))


def test_half_precision_caches_are_aligned_in_the_weights_own_precision() -> None:
    cache = random_cache(STUDENT)

    aligned = build(FLAT)(KVCache(cache.keys.bfloat16(), cache.values.bfloat16(), cache.mask))

    assert aligned.keys.dtype == torch.float32
