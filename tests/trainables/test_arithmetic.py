from __future__ import annotations

import operator
from itertools import pairwise

import numpy as np

from trainables.arithmetic import POOL, TRAIN_ROWS, VOCABULARY, arithmetic_examples, draw, results
from trainables.examples import set_hash, split_by_hash

APPLY = {"+": operator.add, "-": operator.sub, "x": operator.mul}


def test_every_chain_works_its_question_out_modulo_11() -> None:
    for example in arithmetic_examples(rows=300):
        bos, start, *moves, bar = example.question.split()
        steps = [step.split() for step in example.chain.split(";")]

        assert (bos, bar) == ("BOS", "|")
        assert [word for _, name, operand, _, _ in steps for word in (name, operand)] == moves
        assert steps[0][0] == start
        assert all(before[-1] == after[0] for before, after in pairwise(steps))
        for value, name, operand, _, result in steps:
            assert APPLY[name](int(value), int(operand)) % 11 == int(result)
        assert steps[-1][-1] == example.answer


def test_the_whole_vocabulary_of_21_words_is_used_and_nothing_else() -> None:
    used = {word for example in arithmetic_examples(rows=300) for word in example.text.split()}

    assert len(VOCABULARY) == 21
    assert used == set(VOCABULARY) - {"EOS", "PAD"}


def test_operands_are_1_to_10_and_starts_0_to_10() -> None:
    start, operations, operands = draw(3000)

    assert set(np.unique(start)) == set(range(11))
    assert set(np.unique(operands)) == set(range(1, 11))
    assert set(np.unique(operations)) == {0, 1, 2}


def test_results_follow_from_the_operations_by_hand() -> None:
    start = np.array([3])
    operations, operands = np.array([[0, 2, 1, 0]]), np.array([[4, 2, 9, 1]])

    assert results(start, operations, operands).tolist() == [[3, 7, 3, 5, 6]]


def test_no_question_comes_twice_and_the_pool_suffices_for_the_training_rows() -> None:
    examples = arithmetic_examples()
    train, held_out = split_by_hash(examples)

    assert len({example.question for example in examples}) == POOL
    assert len(train) >= TRAIN_ROWS
    assert len(held_out) >= 2000


def test_fewer_rows_are_the_first_of_more() -> None:
    assert arithmetic_examples(rows=50) == arithmetic_examples(rows=200)[:50]


def test_dropping_the_last_step_shortens_the_chain_alone() -> None:
    for whole, short in zip(arithmetic_examples(rows=50), arithmetic_examples(True, rows=50), strict=True):
        assert short.chain == whole.chain.rpartition(" ; ")[0]
        assert (short.item_id, short.question, short.answer) == (whole.item_id, whole.question, whole.answer)


def test_the_rows_never_change() -> None:
    """The packaged teacher has been trained on these and is recognised by them."""
    assert set_hash(arithmetic_examples()) == "63b8b522623d"
