"""Selection: what is kept, by which score, and what must never matter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainables.compressors import COMPRESSORS, Selection, select
from trainables.compressors.context import Context
from trainables.compressors.rkv import diversity, masked_softmax, rkv_score
from trainables.config import InputError, KVMethod
from trainables.kv_cache import KVCache

METHODS = sorted(COMPRESSORS)


@dataclass(frozen=True)
class Case:
    cache: KVCache
    queries: Tensor
    query_mask: Tensor


def make_case(
    seed: int,
    real: tuple[int, ...],
    time: int,
    *,
    layers: int = 2,
    heads: int = 2,
    group: int = 2,
    answer: tuple[int, ...] | None = None,
) -> Case:
    """Random tensors; row b has real[b] entries of `time` and answer[b] queries, then padding."""
    generator = torch.Generator().manual_seed(seed)
    B, D = len(real), 4
    answer = answer or tuple(1 + b % 3 for b in range(B))
    N_A = max(answer)
    keys, values = torch.randn(2, B, layers, heads, time, D, generator=generator).unbind(0)
    queries = torch.randn(B, layers, heads * group, N_A, D, generator=generator) * 2
    mask = torch.arange(time) < torch.tensor(real)[:, None]
    return Case(KVCache(keys, values, mask), queries, torch.arange(N_A) < torch.tensor(answer)[:, None])


def choose(case: Case, method: str, keep: int, lam: float = 0.1, seed: int = 0) -> Selection:
    return select(
        case.cache,
        method=method,
        keep=keep,
        queries=case.queries,
        query_mask=case.query_mask,
        rkv_lambda=lam,
        generator=torch.Generator().manual_seed(seed),
    )


def kept(selection: Selection, row: int = 0, layer: int = 0, head: int = 0) -> list[int]:
    mask = selection.mask[row, layer, head]
    return [int(i) for i in selection.indices[row, layer, head][mask]]


def padded(case: Case, extra: int, fill: float, *, left: bool = False) -> Case:
    """The same rows with `extra` more masked entries and queries; all masked ones hold `fill`."""

    def pad(x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[:, None, None, :, None], fill)
        filler = x.new_full((*x.shape[:3], extra, x.shape[4]), fill)
        return torch.cat([filler, x] if left else [x, filler], dim=3)

    def pad_mask(mask: Tensor) -> Tensor:
        filler = mask.new_zeros(mask.shape[0], extra)
        return torch.cat([filler, mask] if left else [mask, filler], dim=1)

    cache, mask = case.cache, case.cache.mask
    return Case(
        KVCache(pad(cache.keys, mask), pad(cache.values, mask), pad_mask(mask)),
        pad(case.queries, case.query_mask),
        pad_mask(case.query_mask),
    )


def assert_same(one: Selection, other: Selection) -> None:
    assert torch.equal(one.mask, other.mask)
    assert torch.equal(one.indices, other.indices)


def slow_rkv(case: Case, lam: float) -> list[list[list[list[float]]]]:
    """R-KV written out with loops over Python floats: [B][L][H] lists over a row's real entries."""
    B, L, H, _, D = case.cache.keys.shape
    group = case.queries.shape[2] // H
    scores = []
    for b in range(B):
        real = [i for i, yes in enumerate(case.cache.mask[b].tolist()) if yes]
        asked = [a for a, yes in enumerate(case.query_mask[b].tolist()) if yes]
        scores.append(
            [[slow_head(case, b, l, h, group, D, real, asked, lam) for h in range(H)] for l in range(L)]
        )
    return scores


def slow_head(
    case: Case, b: int, l: int, h: int, group: int, D: int, real: list[int], asked: list[int], lam: float
) -> list[float]:
    keys = [case.cache.keys[b, l, h, i].tolist() for i in real]
    importance = [0.0] * len(real)
    for a in asked:
        queries = [case.queries[b, l, h * group + g, a].tolist() for g in range(group)]
        logits = [max(dot(q, k) / math.sqrt(D) for q in queries) for k in keys]
        importance = [x + p / len(asked) for x, p in zip(importance, slow_softmax(logits), strict=True)]
    unlike = []
    for i, k in enumerate(keys):
        cosines = [
            0.0 if i == j else dot(k, o) / math.sqrt(dot(k, k) * dot(o, o)) for j, o in enumerate(keys)
        ]
        unlike.append(sum(-c for c in cosines) / len(real))
    return [lam * x + (1 - lam) * r for x, r in zip(importance, slow_softmax(unlike), strict=True)]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def slow_softmax(x: list[float]) -> list[float]:
    e = [math.exp(v - max(x)) for v in x]
    return [v / sum(e) for v in e]


def test_every_method_of_the_config_has_its_compressor() -> None:
    assert set(COMPRESSORS) == set(get_args(KVMethod))


@pytest.mark.parametrize(("heads", "group"), [(1, 1), (2, 1), (1, 4), (2, 3)])
@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0])
def test_rkv_is_the_score_written_out_with_loops_for_grouped_queries_too(
    heads: int, group: int, lam: float
) -> None:
    case = make_case(3, real=(6, 9, 4), time=9, heads=heads, group=group, answer=(2, 1, 3))

    score = rkv_score(Context(case.cache, case.queries, case.query_mask, lam, None))

    for b, layers in enumerate(slow_rkv(case, lam)):
        n = int(case.cache.mask[b].sum())
        torch.testing.assert_close(
            score[b, ..., :n], torch.tensor(layers, dtype=torch.float64), atol=2e-10, rtol=0
        )


@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0])
def test_rkv_keeps_the_entries_that_the_slow_score_ranks_highest(lam: float) -> None:
    case = make_case(5, real=(12, 8), time=12)

    selection = choose(case, "rkv", keep=5, lam=lam)

    slow = slow_rkv(case, lam)
    for b in range(2):
        for l in range(2):
            for h in range(2):
                scores = slow[b][l][h]
                best = sorted(range(len(scores)), key=lambda i: -scores[i])[:5]
                assert kept(selection, b, l, h) == sorted(best)


def test_redundancy_without_the_square_matrix_equals_the_formula_with_it() -> None:
    case = make_case(1, real=(7, 11), time=11)
    keys, real = case.cache.keys.double(), case.cache.full_mask
    keys = keys * real[..., None]
    keys[:, :, :, 2] = 0  # a key of no length is like nothing, itself included

    fast = diversity(keys, real)

    unit = torch.nn.functional.normalize(keys, dim=-1)
    cosine = unit @ unit.mT
    cosine = cosine.masked_fill(torch.eye(11, dtype=torch.bool), 0)
    n = real.sum(-1, keepdim=True)
    literal = torch.where(real, -cosine.sum(-1) / n, -torch.inf).softmax(-1)
    torch.testing.assert_close(fast, literal)


def test_grouped_queries_are_joined_by_their_largest_logit_and_not_by_their_mean() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.9]]).view(1, 1, 1, 3, 2)
    queries = torch.tensor([[8.0, -8.0], [-8.0, 8.0]]).view(1, 1, 2, 1, 2)  # their mean logit is 0 everywhere
    case = Case(
        KVCache(keys, keys, torch.ones(1, 3, dtype=torch.bool)), queries, torch.ones(1, 1, dtype=torch.bool)
    )

    assert kept(choose(case, "rkv", keep=2, lam=1.0)) == [0, 1]


def test_importance_alone_keeps_what_the_answer_looks_at_and_redundancy_alone_drops_repeats() -> None:
    repeated, lone = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    keys = torch.tensor([repeated, repeated, repeated, lone]).view(1, 1, 1, 4, 3)
    queries = torch.tensor([9.0, 0.0, 0.0]).view(1, 1, 1, 1, 3)
    case = Case(
        KVCache(keys, keys, torch.ones(1, 4, dtype=torch.bool)), queries, torch.ones(1, 1, dtype=torch.bool)
    )

    assert kept(choose(case, "rkv", keep=1, lam=1.0)) == [0]
    assert kept(choose(case, "rkv", keep=1, lam=0.0)) == [3]


def test_right_crop_keeps_the_last_real_entries() -> None:
    selection = choose(make_case(0, real=(6, 3), time=8), "right_crop", keep=4)

    assert kept(selection, row=0) == [2, 3, 4, 5]
    assert kept(selection, row=1) == [0, 1, 2]


def test_full_keeps_every_real_entry_whatever_keep_says() -> None:
    selection = choose(make_case(0, real=(6, 3), time=8), "full", keep=2)

    assert selection.indices.shape == (2, 2, 2, 8)
    assert kept(selection, row=0) == list(range(6))
    assert kept(selection, row=1) == list(range(3))


def test_random_differs_between_rows_layers_heads_and_draws_and_repeats_with_its_seed() -> None:
    case = make_case(0, real=(40, 40), time=40)

    selection = choose(case, "random", keep=8, seed=1)

    choices = {tuple(kept(selection, b, l, h)) for b in range(2) for l in range(2) for h in range(2)}
    assert len(choices) == 8
    assert_same(selection, choose(case, "random", keep=8, seed=1))
    assert not torch.equal(selection.indices, choose(case, "random", keep=8, seed=2).indices)


def test_random_keeps_every_entry_equally_often() -> None:
    case = make_case(0, real=(8,), time=10)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(10)

    for _ in range(500):
        selection = select(case.cache, method="random", keep=2, generator=generator)
        counts += torch.bincount(selection.indices.flatten(), minlength=10)

    expected = 500 * 4 * 2 / 8
    assert counts[8:].sum() == 0
    assert ((counts[:8] - expected).abs() < 5 * math.sqrt(expected)).all()


def test_padding_of_one_batch_does_not_change_the_random_selection_of_the_next() -> None:
    case = make_case(0, real=(9, 5), time=9)
    short, long = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)

    select(case.cache, method="random", keep=2, generator=short)
    select(padded(case, 30, 0.0).cache, method="random", keep=2, generator=long)

    following = [select(case.cache, method="random", keep=3, generator=g) for g in (short, long)]
    assert_same(*following)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    real=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    extra=st.integers(1, 40),
    keep=st.integers(1, 15),
    fill=st.sampled_from([0.0, 1e30, math.inf, -math.inf, math.nan]),
    left=st.booleans(),
)
def test_padding_never_changes_a_selection(
    method: str, seed: int, real: list[int], extra: int, keep: int, fill: float, left: bool
) -> None:
    case = make_case(seed, tuple(real), time=max(real, default=1) or 1)

    clean = choose(case, method, keep)
    noisy = choose(padded(case, extra, fill, left=left), method, keep)

    for b in range(len(real)):
        shift = extra if left else 0
        n = int(clean.mask[b, 0, 0].sum())
        assert torch.equal(noisy.mask[b, ..., :n], clean.mask[b, ..., :n])
        assert not noisy.mask[b, ..., n:].any()
        assert torch.equal(noisy.indices[b, ..., :n] - shift, clean.indices[b, ..., :n])


@pytest.mark.parametrize("method", ["full", "right_crop", "rkv"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)))
def test_rows_in_another_order_give_the_same_selections_in_that_order(
    method: str, seed: int, order: list[int]
) -> None:
    case = make_case(seed, real=(5, 9, 0, 7), time=9, answer=(2, 1, 3, 1))
    index = torch.tensor(order)

    straight = choose(case, method, keep=4)
    moved = choose(Case(case.cache.rows(index), case.queries[index], case.query_mask[index]), method, keep=4)

    assert torch.equal(moved.indices, straight.indices[index])
    assert torch.equal(moved.mask, straight.mask[index])


@pytest.mark.parametrize("method", METHODS)
def test_another_row_s_content_has_no_influence(method: str) -> None:
    case = make_case(2, real=(8, 8), time=8)
    keys, queries = case.cache.keys.clone(), case.queries.clone()
    keys[1], queries[1] = keys[1].flip(0) * -3, queries[1] * 5
    other = Case(KVCache(keys, case.cache.values, case.cache.mask), queries, case.query_mask)

    before, after = choose(case, method, keep=3), choose(other, method, keep=3)

    assert torch.equal(before.indices[0], after.indices[0])


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    real=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    keep=st.integers(1, 10),
)
def test_slots_are_real_entries_in_time_order_first_and_masked_valid_indices_after(
    method: str, seed: int, real: list[int], keep: int
) -> None:
    selection = choose(make_case(seed, tuple(real), time=7), method, keep)

    slots = 7 if method == "full" else keep
    assert selection.indices.shape == selection.mask.shape == (len(real), 2, 2, slots)
    assert selection.indices.dtype == torch.int64
    assert ((selection.indices >= 0) & (selection.indices < 7)).all()
    for b, n in enumerate(real):
        n = min(n, slots)
        assert selection.mask[b, ..., :n].all()
        assert not selection.mask[b, ..., n:].any()
        assert (selection.indices[b, ..., :n].diff(dim=-1) > 0).all()
        assert (selection.indices[b, ..., :n] < real[b]).all()


def test_of_equal_scores_the_earliest_entries_are_kept() -> None:
    for time in range(1, 70):
        keys = torch.tensor([0.3, -1.7, 0.1]).expand(1, 2, 2, time, 3)
        cache = KVCache(keys, keys, torch.ones(1, time, dtype=torch.bool))
        queries = torch.randn(1, 2, 4, 3, 3, generator=torch.Generator().manual_seed(time))

        selection = select(cache, method="rkv", keep=min(4, time), queries=queries)

        assert selection.indices.eq(torch.arange(min(4, time))).all(), time


def test_repeated_keys_tie_whatever_rounding_the_matrix_product_gives_their_columns() -> None:
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        time, D, N_A = (int(torch.randint(3, high, (), generator=generator)) for high in (60, 70, 9))
        kind = torch.randint(3, (time,), generator=generator)
        keys = 3 * torch.randn(1, 2, 2, 3, D, generator=generator)[:, :, :, kind]
        cache = KVCache(keys, keys, torch.ones(1, time, dtype=torch.bool))
        queries = 3 * torch.randn(1, 2, 4, N_A, D, generator=generator)

        selection = select(cache, method="rkv", keep=time // 2, queries=queries)

        chosen = torch.zeros(1, 2, 2, time).scatter(3, selection.indices, 1)
        for same in (kind == k for k in range(3)):
            assert (chosen[..., same].diff(dim=-1) <= 0).all(), seed  # the earliest of each kind


def test_zero_keys_give_a_finite_score_and_a_selection() -> None:
    case = make_case(0, real=(5,), time=5)
    zero = KVCache(torch.zeros_like(case.cache.keys), case.cache.values, case.cache.mask)

    assert kept(choose(Case(zero, case.queries, case.query_mask), "rkv", keep=2)) == [0, 1]


def test_a_row_without_a_real_query_is_ranked_by_diversity() -> None:
    case = make_case(0, real=(7, 7), time=7, answer=(2, 2))
    silent = Case(case.cache, case.queries, torch.tensor([[True, True], [False, False]]))

    assert torch.equal(
        choose(silent, "rkv", keep=3).indices[1], choose(case, "rkv", keep=3, lam=0.0).indices[1]
    )


def test_a_mask_of_its_own_per_layer_and_head_is_respected() -> None:
    case = make_case(0, real=(6, 6), time=6)
    mask = case.cache.full_mask.clone()
    mask[0, 1, 0, :4] = False
    own = Case(KVCache(case.cache.keys, case.cache.values, mask), case.queries, case.query_mask)

    for method in METHODS:
        assert kept(choose(own, method, keep=6), row=0, layer=1, head=0) == [4, 5]
        assert kept(choose(own, method, keep=6), row=0, layer=1, head=1) == list(range(6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_scores_are_computed_in_no_less_than_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    case = make_case(8, real=(9, 6), time=9)
    narrow = Case(
        KVCache(case.cache.keys.to(dtype), case.cache.values.to(dtype), case.cache.mask),
        case.queries.to(dtype),
        case.query_mask,
    )
    widened = Case(
        KVCache(narrow.cache.keys.double(), narrow.cache.values.double(), case.cache.mask),
        narrow.queries.double(),
        case.query_mask,
    )

    assert_same(choose(narrow, "rkv", keep=4), choose(widened, "rkv", keep=4))


def test_no_graph_is_recorded_while_scores_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(0, real=(6,), time=6)
    case.cache.keys.requires_grad_()
    scores = []
    monkeypatch.setitem(COMPRESSORS, "rkv", lambda context: scores.append(rkv_score(context)) or scores[-1])

    choose(case, "rkv", keep=2)

    assert not scores[0].requires_grad


def test_masked_softmax_gives_padding_no_part_of_the_sum() -> None:
    logits = torch.tensor([[1.0, 2.0, 50.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    real = torch.tensor([[True, True, False], [False, False, False]])

    p = masked_softmax(logits, real)

    torch.testing.assert_close(p[0, :2], logits[0, :2].softmax(-1))
    assert p[0, 2] == 0
    assert (p[1] == 0).all()


def test_an_unknown_method_names_its_nearest_neighbour() -> None:
    with pytest.raises(InputError, match="Did you mean 'rkv'"):
        choose(make_case(0, real=(3,), time=3), "rkvv", keep=1)


def test_rkv_without_queries_and_random_without_generator_say_what_they_need() -> None:
    cache = make_case(0, real=(3,), time=3).cache

    with pytest.raises(ValueError, match="pass queries"):
        select(cache, method="rkv", keep=1)
    with pytest.raises(ValueError, match="pass generator"):
        select(cache, method="random", keep=1)
    with pytest.raises(ValueError, match="at least 1"):
        select(cache, method="full", keep=0)


def test_queries_that_do_not_fit_the_cache_are_refused_with_both_shapes() -> None:
    case = make_case(0, real=(3,), time=3)

    with pytest.raises(ValueError, match="multiple of the 2 key-value heads"):
        select(case.cache, method="rkv", keep=1, queries=case.queries[:, :, :3])
    with pytest.raises(ValueError, match="query_mask must be bool"):
        select(case.cache, method="rkv", keep=1, queries=case.queries, query_mask=torch.ones(1, 9).bool())
