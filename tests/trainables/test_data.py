from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from trainables.config import DatasetName, DistillConfig, InputError
from trainables.data import DATASETS, load_examples, parse_answer
from trainables.examples import RowCounts, is_held_out, set_hash

REAL = Path(__file__).parents[2] / "../shared/data/gsm8k/train.jsonl"


def row(i: int, question: str = "How much is {i} and {i}?") -> dict[str, str]:
    return {"question": question.format(i=i), "answer": f"{i}+{i} = <<{i}+{i}={2 * i}>>{2 * i}\n#### {2 * i}"}


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def config(**values: Any) -> DistillConfig:
    return DistillConfig(model_name="tiny-llama", **values)


@pytest.fixture
def train_file(tmp_path: Path) -> str:
    return write(tmp_path / "train.jsonl", [row(i) for i in range(200)])


def test_the_table_of_data_sets_holds_exactly_the_names_of_the_flag() -> None:
    assert set(DATASETS) == set(get_args(DatasetName))


def test_the_built_in_task_gives_20000_rows_and_as_many_held_out_as_asked() -> None:
    splits = load_examples(config(dataset="arithmetic", eval_size=300))

    assert (len(splits.train), len(splits.held_out)) == (20_000, 300)
    assert splits.skipped == RowCounts()


def test_no_held_out_question_is_trained_on(train_file: str) -> None:
    for given in (config(dataset="arithmetic", eval_size=5000), config(train_file=train_file)):
        splits = load_examples(given)

        assert not {e.question for e in splits.train} & {e.question for e in splits.held_out}
        assert all(is_held_out(e) for e in splits.held_out)


def test_all_seeds_share_the_rows() -> None:
    one, two = (load_examples(config(dataset="arithmetic", seed=seed)) for seed in (0, 1))

    assert one == two


def test_a_subset_is_the_first_rows_and_leaves_the_held_out_ones_alone(train_file: str) -> None:
    whole = load_examples(config(train_file=train_file))
    part = load_examples(config(train_file=train_file, subset_size=20))

    assert part.train == whole.train[:20]
    assert part.held_out == whole.held_out
    assert part.everything == whole.everything == whole.train


def test_which_rows_are_held_out_depends_on_no_other_row(train_file: str, tmp_path: Path) -> None:
    fewer = write(tmp_path / "fewer.jsonl", [row(i) for i in range(0, 200, 2)])

    whole, half = (load_examples(config(train_file=path)) for path in (train_file, fewer))

    assert {e.item_id for e in half.held_out} <= {e.item_id for e in whole.held_out}


def test_an_eval_file_is_held_out_whole_and_nothing_is_split_off(train_file: str, tmp_path: Path) -> None:
    eval_file = write(tmp_path / "eval.jsonl", [row(i) for i in range(500, 530)])

    splits = load_examples(config(train_file=train_file, eval_file=eval_file))

    assert (len(splits.train), len(splits.held_out)) == (200, 30)


def test_a_held_out_question_that_comes_twice_counts_once(train_file: str, tmp_path: Path) -> None:
    eval_file = write(tmp_path / "eval.jsonl", [row(500), row(501), row(500)])

    splits = load_examples(config(train_file=train_file, eval_file=eval_file))

    assert [e.answer for e in splits.held_out] == ["1000", "1002"]
    assert splits.skipped == RowCounts(repeated=1)


def test_an_eval_file_that_shares_questions_with_the_training_file_is_refused(
    train_file: str, tmp_path: Path
) -> None:
    eval_file = write(tmp_path / "eval.jsonl", [row(500), row(7), row(8)])

    with pytest.raises(InputError, match=r"shares 2 questions with .*'How much is 7 and 7\?") as error:
        load_examples(config(train_file=train_file, eval_file=eval_file))

    assert eval_file in str(error.value)
    assert train_file in str(error.value)


def test_a_bad_row_of_the_eval_file_is_named_by_its_own_flag(train_file: str, tmp_path: Path) -> None:
    eval_file = write(tmp_path / "eval.jsonl", [row(500), {"question": "How many?"}])

    with pytest.raises(InputError, match=rf"--eval_file {eval_file}, line 2 has no answer"):
        load_examples(config(train_file=train_file, eval_file=eval_file))


def test_fewer_rows_than_one_step_are_refused_with_all_the_numbers(train_file: str) -> None:
    given = config(train_file=train_file, subset_size=30, batch_size=8, gradient_accumulation_steps=4)

    with pytest.raises(InputError, match=r"30 training rows.*one step of 32 .*8 x .*4"):
        load_examples(given)


def test_exactly_one_step_of_rows_is_enough(train_file: str) -> None:
    splits = load_examples(config(train_file=train_file, subset_size=32, batch_size=32))

    assert len(splits.train) == 32


def test_a_subset_larger_than_the_data_is_refused(train_file: str) -> None:
    with pytest.raises(InputError, match=r"--subset_size 20001 is more than the 20000 rows"):
        load_examples(config(dataset="arithmetic", subset_size=20_001))
    with pytest.raises(InputError, match=r"--subset_size 500 is more than the \d+ rows of --train_file"):
        load_examples(config(train_file=train_file, subset_size=500))


def test_a_file_without_annotations_is_refused_with_the_count_of_rows_left_out(
    train_file: str, tmp_path: Path
) -> None:
    words = [{"question": f"Say {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(40)]

    path = write(tmp_path / "words.jsonl", words)

    with pytest.raises(
        InputError, match=r"gives 0 training rows \(40 of 40 rows of .* left out: 40 no equation\)"
    ):
        load_examples(config(train_file=path))
    with pytest.raises(
        InputError, match=r"--eval_file .* no held-out rows \(40 of 40 .*: give it rows like .*<<"
    ):
        load_examples(config(train_file=train_file, eval_file=path))


def test_a_file_too_small_to_hold_a_row_out_is_refused(train_file: str, tmp_path: Path) -> None:
    kept = {e.question.strip() for e in load_examples(config(train_file=train_file)).train}
    rows = [r for r in map(row, range(200)) if r["question"] in kept][:10]

    with pytest.raises(InputError, match=r"leaves no held-out rows.*--eval_file"):
        load_examples(config(train_file=write(tmp_path / "few.jsonl", rows)))


def test_rows_left_out_of_either_file_are_noted_with_what_the_file_held(tmp_path: Path) -> None:
    words = {"question": "Say it?", "answer": "It is 3.\n#### 3"}
    train_file = write(tmp_path / "train.jsonl", [words, *map(row, range(100))])
    eval_file = write(tmp_path / "eval.jsonl", [words, *map(row, range(500, 1700)), words, row(500)])

    alone = load_examples(config(train_file=train_file))
    both = load_examples(config(train_file=train_file, eval_file=eval_file))

    of_training = f"1 of 101 rows of --train_file {train_file} left out: 1 no equation"
    few = f"--eval_size 256: only {len(alone.held_out)} rows are held out"
    of_evaluation = f"3 of 1,203 rows of --eval_file {eval_file} left out: 2 no equation, 1 repeated"
    assert alone.notes == (of_training, few)
    assert both.notes == (of_training, of_evaluation)
    assert load_examples(config(dataset="arithmetic")).notes == ()


def test_the_hash_of_a_set_sees_every_part_and_the_order(train_file: str) -> None:
    rows = load_examples(config(train_file=train_file)).train
    from dataclasses import replace

    changed = [
        [*rows[1:], rows[0]],
        rows[1:],
        *([replace(rows[0], **{part: "?"}), *rows[1:]] for part in ("question", "chain", "mark", "answer")),
    ]

    hashes = {set_hash(rows), *map(set_hash, changed)}

    assert len(hashes) == len(changed) + 1
    assert all(len(h) == 12 for h in hashes)


def test_reading_and_encoding_load_no_torch() -> None:
    program = (
        "import sys\n"
        "from trainables.config import DistillConfig\n"
        "from trainables.data import load_examples\n"
        "from trainables.tokenizers import encode, load_tokenizer\n"
        "rows = load_examples(DistillConfig(model_name='tiny-llama', dataset='arithmetic')).train[:9]\n"
        "encode(rows, load_tokenizer('tiny-llama', 'arithmetic', rows))\n"
        "assert 'torch' not in sys.modules\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "dataset", "answer"),
    [
        ("3 + 4 = 7 ANS 7 EOS PAD", "arithmetic", "7"),
        ("ANS 10 ANS 3", "arithmetic", "10"),
        ("ANS EOS", "arithmetic", None),
        ("ANS | 7", "arithmetic", None),
        ("3 + 4 = 7", "arithmetic", None),
        ("48/2=24\n#### 1,072<|eos|>", "gsm8k", "1072"),
        ("#### $72.00\nMore", "gsm8k", "72"),
        ("####", "gsm8k", None),
        ("The answer is 72", "gsm8k", None),
        ("", "gsm8k", None),
    ],
)
def test_an_answer_is_the_number_right_after_the_mark(text: str, dataset: str, answer: str | None) -> None:
    assert parse_answer(text, dataset) == answer


def test_every_row_is_right_about_itself(train_file: str) -> None:
    for dataset, given in (
        ("arithmetic", config(dataset="arithmetic")),
        ("gsm8k", config(train_file=train_file)),
    ):
        for example in load_examples(given).train[:500]:
            assert parse_answer(example.text, dataset) == example.answer


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not here")
def test_all_of_gsm8k_is_read_but_for_95_rows_worked_in_words() -> None:
    splits = load_examples(config(train_file=str(REAL), eval_size=10_000))

    assert splits.skipped == RowCounts(no_equation=95)
    assert len(splits.train) + len(splits.held_out) == 7473 - 95
    assert 0.08 < len(splits.held_out) / 7378 < 0.12
    assert all(parse_answer(e.text, "gsm8k") == e.answer for e in splits.train)
