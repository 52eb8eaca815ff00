from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.batches import ANSWER, CHAIN, PADDING, QUESTION, Batch, batches, collate, data_order_hash
from trainables.tokenizers import Encoded

PAD = 99
SHORT = Encoded(question=(1, 2), chain=(3,), answer=(4, 5, 6), codi_index=0)
LONG = Encoded(question=(7, 8, 9), chain=(10, 11, 12, 13), answer=(14, 15, 16, 17), codi_index=1)


def test_a_batch_holds_its_rows_right_padded() -> None:
    batch = collate([SHORT, LONG], PAD)

    assert batch.question_ids.tolist() == [[1, 2, PAD], [7, 8, 9]]
    assert batch.question_mask.tolist() == [[True, True, False], [True] * 3]
    assert batch.answer_ids.tolist() == [[4, 5, 6, PAD], [14, 15, 16, 17]]
    assert batch.answer_mask.tolist() == [[True, True, True, False], [True] * 4]
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, *[PAD] * 5], list(range(7, 18))]
    assert batch.attention_mask.sum(1).tolist() == [6, 11]
    assert batch.segment.tolist() == [[1, 1, 2, 3, 3, 3, *[0] * 5], [1] * 3 + [2] * 4 + [3] * 4]
    assert batch.codi_index.tolist() == [0, 1]
    assert batch.chain_len.tolist() == [1, 4]
    assert batch.n_tokens == 17


def test_ids_are_int64_masks_bool_and_segments_int8() -> None:
    batch = collate([SHORT, LONG], PAD)

    assert {batch.question_ids.dtype, batch.answer_ids.dtype, batch.input_ids.dtype} == {torch.int64}
    assert {batch.codi_index.dtype, batch.chain_len.dtype} == {torch.int64}
    assert {batch.question_mask.dtype, batch.answer_mask.dtype, batch.attention_mask.dtype} == {torch.bool}
    assert batch.segment.dtype == torch.int8


SPANS = st.lists(st.integers(0, 20), min_size=1, max_size=6).map(tuple)
ROWS = st.lists(
    st.builds(Encoded, question=SPANS, chain=SPANS, answer=SPANS, codi_index=st.just(0)),
    min_size=1,
    max_size=4,
)


@given(ROWS, st.integers(1, 16))
def test_padding_further_changes_no_real_token(rows: list[Encoded], multiple_of: int) -> None:
    tight, wide = collate(rows, PAD), collate(rows, PAD, multiple_of)

    for name in ("question", "answer"):
        ids, mask = getattr(wide, f"{name}_ids"), getattr(wide, f"{name}_mask")
        assert ids.shape[1] % multiple_of == 0
        assert torch.equal(ids[mask], getattr(tight, f"{name}_ids")[getattr(tight, f"{name}_mask")])
        assert (ids[~mask] == PAD).all()
    assert wide.input_ids.shape[1] % multiple_of == 0
    assert torch.equal(wide.input_ids[wide.attention_mask], tight.input_ids[tight.attention_mask])
    assert torch.equal(wide.attention_mask, wide.segment != PADDING)
    assert wide.n_tokens == tight.n_tokens == int(wide.attention_mask.sum())


@given(ROWS)
def test_segments_pick_question_chain_and_answer_out_of_the_whole_text(rows: list[Encoded]) -> None:
    batch = collate(rows, PAD)

    for i, row in enumerate(rows):
        picked = [
            tuple(batch.input_ids[i][batch.segment[i] == part].tolist()) for part in (QUESTION, CHAIN, ANSWER)
        ]
        assert picked == [row.question, row.chain, row.answer]


@given(ROWS)
def test_a_row_is_the_same_alone_and_among_others(rows: list[Encoded]) -> None:
    together = collate(rows, PAD)

    for i, row in enumerate(rows):
        alone = collate([row], PAD)
        length = int(together.attention_mask[i].sum())
        assert torch.equal(together.input_ids[i, :length], alone.input_ids[0])
        assert torch.equal(together.segment[i, :length], alone.segment[0])


def test_moving_a_batch_moves_every_tensor() -> None:
    moved = collate([SHORT, LONG], PAD).to("meta")

    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert isinstance(moved, Batch)
    assert len(tensors) == 9
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.n_tokens == 17


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_visits_no_row_twice_and_drops_less_than_a_batch(
    rows: int, size: int, seed: int, epoch: int
) -> None:
    made = batches(rows, size, seed, epoch)

    visited = [int(i) for indices in made for i in indices]
    assert len(visited) == len(set(visited)) == rows // size * size
    assert set(visited) <= set(range(rows))
    assert all(len(indices) == size for indices in made)


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    first = data_order_hash(batches(64, 8, seed=1, epoch=2))

    torch.manual_seed(5)
    torch.rand(10)
    again = data_order_hash(batches(64, 8, seed=1, epoch=2))

    assert first == again
    assert first != data_order_hash(batches(64, 8, seed=1, epoch=3))
    assert first != data_order_hash(batches(64, 8, seed=2, epoch=2))


@pytest.mark.parametrize(
    "other", [[[1, 0], [2, 3]], [[2, 3], [0, 1]], [[0, 1, 2, 3]], [[0, 1]], [[0, 1], [2, 3], [4, 5]], []]
)
def test_the_order_hash_sees_rows_order_and_borders(other: list[list[int]]) -> None:
    order = [np.array([0, 1]), np.array([2, 3])]

    assert data_order_hash(order) == data_order_hash([np.array(i, dtype=np.int32) for i in order])
    assert data_order_hash(order) != data_order_hash([np.array(i) for i in other])
