"""The built-in task: four operations modulo 11, one after another, with every result on the way written out.

    BOS 3 + 4 x 2 - 9 + 1 |   3 + 4 = 7 ; 7 x 2 = 3 ; 3 - 9 = 5 ; 5 + 1 = 6   ANS 6 EOS

One word is one token. There are 11 * 30^4 = 8.9 million questions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.examples import Example, make_example

MODULUS = 11
STEPS = 4
OPERATIONS = ("+", "-", "x")
MARK = "ANS"
BOS, EOS, PAD = "BOS", "EOS", "PAD"
VOCABULARY = (*map(str, range(MODULUS)), *OPERATIONS, "|", "=", ";", MARK, BOS, EOS, PAD)
"""Word to token id by position; the packaged teacher's weights depend on the order."""

TRAIN_ROWS = 20_000
POOL = 23_000
"""Questions drawn: enough that 20,000 remain for training after one in ten is held out."""
DATA_SEED = 11
"""The data's own: all seeds of an experiment share the rows and differ in their order."""


def draw(rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Starts [N], operations [N 4] as indices, operands 1..10 [N 4] of `rows` different questions."""
    # RandomState's streams are frozen for good; those of default_rng may change with numpy's version.
    rng = np.random.RandomState(DATA_SEED)
    drawn = rng.randint(0, MODULUS * (len(OPERATIONS) * (MODULUS - 1)) ** STEPS, size=2 * rows)
    _, first = np.unique(drawn, return_index=True)
    code = drawn[np.sort(first)[:rows]]
    start, code = code % MODULUS, code // MODULUS
    places = (len(OPERATIONS) * (MODULUS - 1)) ** np.arange(STEPS)
    pairs = code[:, None] // places % (len(OPERATIONS) * (MODULUS - 1))
    return start, pairs % len(OPERATIONS), pairs // len(OPERATIONS) + 1


def results(
    start: NDArray[np.int64], operations: NDArray[np.int64], operands: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The running value before the first step and after each, modulo 11: [N 5]."""
    values = [start]
    for step in range(STEPS):
        value, operand = values[-1], operands[:, step]
        outcomes = np.stack([value + operand, value - operand, value * operand]) % MODULUS
        values.append(np.take_along_axis(outcomes, operations[None, :, step], axis=0)[0])
    return np.stack(values, axis=1)


def arithmetic_examples(drop_last_step: bool = False, rows: int = POOL) -> list[Example]:
    """The task's questions with chains and answers, always the same ones in the same order."""
    start, operations, operands = draw(rows)
    values = results(start, operations, operands).tolist()
    names = np.array(OPERATIONS)[operations].tolist()
    kept = STEPS - drop_last_step
    examples = []
    for value, name, operand in zip(values, names, operands.tolist(), strict=True):
        moves = [f"{n} {c}" for n, c in zip(name, operand, strict=True)]
        question = " ".join([BOS, str(value[0]), *moves, "|"])
        chain = " ; ".join(f"{value[i]} {moves[i]} = {value[i + 1]}" for i in range(kept))
        examples.append(make_example(question, f" {chain}", f" {MARK} ", str(value[-1])))
    return examples
