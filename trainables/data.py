"""The data sets by name, and the rows that one trial trains on and is tested on. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trainables import arithmetic, gsm8k
from trainables.answers import leading_number
from trainables.config import DistillConfig, InputError
from trainables.examples import Example, RowCounts, Splits, split_by_hash


@dataclass(frozen=True)
class Dataset:
    """Where a data set's rows come from, what announces an answer in them and what ends it."""

    read: Callable[[DistillConfig], Splits]
    """All rows there are, split."""
    mark: str
    end: str


def _arithmetic(config: DistillConfig) -> Splits:
    train, held_out = split_by_hash(arithmetic.arithmetic_examples(config.drop_last_step))
    train = train[: arithmetic.TRAIN_ROWS]
    return Splits(train, held_out, train, RowCounts())


def _gsm8k(config: DistillConfig) -> Splits:
    if config.train_file is None:
        examples, skipped = gsm8k.download_gsm8k(config.drop_last_step)
    else:
        examples, skipped = gsm8k.read_gsm8k(
            config.train_file, "--train_file", config.drop_last_step, config.train_sha256
        )
    if config.eval_file is None:
        train, others = split_by_hash(examples)
        held_out, repeated = _once(others)
        skipped += repeated
        return Splits(train, held_out, train, skipped, skipped.note(_source(config), len(train + held_out)))
    others, more = gsm8k.read_gsm8k(
        config.eval_file, "--eval_file", config.drop_last_step, config.eval_sha256
    )
    held_out, repeated = _once(others)
    more += repeated
    notes = skipped.note(_source(config), len(examples))
    notes += more.note(f"--eval_file {config.eval_file}", len(held_out))
    return Splits(examples, held_out, examples, skipped + more, notes)


def _once(held_out: Sequence[Example]) -> tuple[list[Example], RowCounts]:
    """Every question's first row, and how many are left out for that."""
    once: dict[str, Example] = {}
    for example in held_out:
        once.setdefault(example.item_id, example)
    return list(once.values()), RowCounts(repeated=len(held_out) - len(once))


DATASETS: dict[str, Dataset] = {
    "arithmetic": Dataset(_arithmetic, arithmetic.MARK, " "),
    "gsm8k": Dataset(_gsm8k, gsm8k.MARK, "\n"),
}


def load_examples(config: DistillConfig) -> Splits:
    """The first `subset_size` training rows and up to `eval_size` held-out rows.

    Raises InputError where rows are missing, too few or malformed, or where the two sides overlap.
    """
    splits = DATASETS[config.dataset].read(config)
    _check_overlap(config, splits)
    _check_numbers(config, splits)
    few = f"--eval_size {config.eval_size}: only {len(splits.held_out):,} rows are held out"
    return replace(
        splits,
        train=splits.train[: config.subset_size],
        held_out=splits.held_out[: config.eval_size],
        notes=splits.notes + (few,) * (len(splits.held_out) < config.eval_size),
    )


def parse_answer(text: str, dataset: str) -> str | None:
    """The normalised number after the first answer mark of `dataset`, None where there is none.

    Read to the end of its line (the built-in task: of its word) by the rule by which a file's answers are
    read, so that 1/2 is not 1 here either. Compare for equality: no tolerance.
    """
    known = DATASETS[dataset]
    _, mark, rest = text.partition(known.mark)
    return leading_number(rest.strip().partition(known.end)[0]) if mark else None


def _source(config: DistillConfig) -> str:
    if config.dataset == "arithmetic":
        return "--dataset arithmetic"
    return f"--train_file {config.train_file}" if config.train_file else gsm8k.HUB_NAME


def _check_overlap(config: DistillConfig, splits: Splits) -> None:
    train = {example.item_id for example in splits.train}
    both = [example for example in splits.held_out if example.item_id in train]
    if both and config.eval_file:
        raise InputError(
            f"--eval_file {config.eval_file} shares {_count(both)} with --train_file {config.train_file}, "
            f"the first being {both[0].question[:60]!r}: take shared questions out of one file, "
            f"or leave --eval_file out to have rows held out of the training file."
        )
    assert not both, "a split by hash of the question cannot overlap"


def _check_numbers(config: DistillConfig, splits: Splits) -> None:
    rows, source = len(splits.train), _source(config)
    left_out = f" ({'; '.join(splits.notes)})" if splits.notes else ""
    if config.subset_size is not None and config.subset_size > rows:
        raise InputError(
            f"--subset_size {config.subset_size} is more than the {rows} rows of {source}{left_out}: "
            f"lower it, or leave it out to use them all."
        )
    used = rows if config.subset_size is None else config.subset_size
    step = config.batch_size * config.gradient_accumulation_steps
    if used < step:
        raise InputError(
            f"{source} gives {used} training rows{left_out}, fewer than one step of {step} (--batch_size "
            f"{config.batch_size} x --gradient_accumulation_steps {config.gradient_accumulation_steps}): "
            f"{'lower these, or give more rows' if rows else f'give more rows like {gsm8k.FORMAT}'}."
        )
    if not splits.held_out and config.eval_file:
        raise InputError(
            f"--eval_file {config.eval_file} gives no held-out rows{left_out}: "
            f"give it rows like {gsm8k.FORMAT}."
        )
    if not splits.held_out:
        raise InputError(
            f"{source} leaves no held-out rows{left_out}: "
            f"give --eval_file rows of its own, or --train_file more rows to split off."
        )


def _count(rows: Sequence[Example]) -> str:
    return "1 question" if len(rows) == 1 else f"{len(rows)} questions"
