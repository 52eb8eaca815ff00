from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables import gsm8k, hub
from trainables.config import InputError
from trainables.examples import RowCounts
from trainables.gsm8k import download_gsm8k, leading_number, read_gsm8k

CLIPS = {
    "question": "Natalia sold 48 clips, then half as many. How many in all? ",
    "answer": "She sold 48/2 = <<48/2=24>>24, so\n48+24 = <<48 + 24=72>>72 in all.\n#### 1,072",
}


def write(folder: Path, *rows: object) -> str:
    """A JSONL file of `rows`; bytes are written as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def test_a_row_becomes_question_equations_and_normalised_answer(tmp_path: Path) -> None:
    (example,), skipped = read_gsm8k(write(tmp_path, CLIPS), "--train_file")

    assert example.text == (
        "Natalia sold 48 clips, then half as many. How many in all?\n48/2=24 48+24=72\n#### 1072"
    )
    assert (example.chain, example.answer) == ("48/2=24 48+24=72\n", "1072")
    assert skipped == RowCounts()


def test_rows_keep_the_order_of_the_file_and_blank_lines_and_a_byte_order_mark_are_passed_over(
    tmp_path: Path,
) -> None:
    rows = [{**CLIPS, "question": f"Question {i}?"} for i in range(5)]
    first, *others = [json.dumps(row).encode() for row in rows]

    examples, _ = read_gsm8k(write(tmp_path, b"\xef\xbb\xbf" + first, b"", b"  \r", *others), "--train_file")

    assert [example.question for example in examples] == [f"Question {i}?\n" for i in range(5)]


def test_a_line_separator_inside_a_question_does_not_break_the_line(tmp_path: Path) -> None:
    row = json.dumps({**CLIPS, "question": "One\u2028two?"}, ensure_ascii=False).encode()

    (example,), _ = read_gsm8k(write(tmp_path, row), "--train_file")

    assert example.question == "One\u2028two?\n"


def test_rows_worked_in_words_alone_are_counted_and_left_out(tmp_path: Path) -> None:
    words = {"question": "And in words?", "answer": "Dividing both sides by 3 gives 24.\n#### 24"}

    examples, skipped = read_gsm8k(write(tmp_path, words, CLIPS, words), "--train_file")

    assert len(examples) == 1
    assert skipped == RowCounts(no_equation=2)
    assert str(skipped) == "2 no equation"


def test_dropping_the_last_step_counts_the_rows_of_which_nothing_is_left(tmp_path: Path) -> None:
    single = {"question": "Half of 48?", "answer": "48/2 = <<48/2=24>>24\n#### 24"}

    examples, skipped = read_gsm8k(write(tmp_path, CLIPS, single), "--train_file", drop_last_step=True)

    assert [example.chain for example in examples] == ["48/2=24\n"]
    assert skipped == RowCounts(one_step=1)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"answer": CLIPS["answer"]}, "has no question"),
        ({**CLIPS, "question": "  "}, "has an empty question"),
        ({**CLIPS, "question": 7}, "has no question"),
        ({"question": "How many?"}, "has no answer"),
        ({**CLIPS, "answer": ""}, "has an empty answer"),
        ({**CLIPS, "answer": "<<48/2=24>>24"}, "no final answer after ####"),
        ({**CLIPS, "answer": "#### 24"}, "no chain of thought before ####"),
        ({**CLIPS, "answer": "<<48/2=24>>24\n####"}, "'' after ####, which is no number"),
        ({**CLIPS, "answer": "<<48/2=24>>24\n#### many"}, "'many' after ####, which is no number"),
        (["question", "answer"], "is a JSON list, not an object"),
        (b'{"question": "How', "is not JSON"),
        (b'{"question": "\xff"}', "is not JSON"),
    ],
)
def test_a_row_that_lacks_something_is_named_with_flag_file_and_line(
    tmp_path: Path, row: object, complaint: str
) -> None:
    path = write(tmp_path, CLIPS, row, CLIPS)

    with pytest.raises(InputError) as error:
        read_gsm8k(path, "--eval_file")

    assert str(error.value).startswith(f"--eval_file {path}, line 2 ")
    assert complaint in str(error.value)
    assert "<<48/2=24>>" in str(error.value)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"

    with pytest.raises(InputError, match=rf"--train_file {missing} cannot be read \(No such file"):
        read_gsm8k(str(missing), "--train_file")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        read_gsm8k(str(tmp_path), "--train_file")


def test_an_unreachable_hub_is_an_error_that_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsm8k, "hub_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    with pytest.raises(InputError, match="does not answer") as error:
        download_gsm8k()

    assert "--train_file" in str(error.value)
    assert "--dataset arithmetic" in str(error.value)


def test_rows_that_are_not_cached_offline_are_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(gsm8k, "hub_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.load_dataset", refuse)

    with pytest.raises(InputError, match=r"OfflineModeIsEnabled.*--train_file.*--dataset arithmetic"):
        download_gsm8k()


def test_the_hubs_rows_are_read_like_a_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[object, ...]] = []

    def hand_over(*args: object, split: str) -> list[dict[str, str]]:
        asked.append((*args, split))
        return [CLIPS]

    monkeypatch.setattr(gsm8k, "hub_reachable", lambda: True)
    monkeypatch.setattr("datasets.load_dataset", hand_over)

    assert download_gsm8k() == read_gsm8k(write(tmp_path, CLIPS), "--train_file")
    assert asked == [("openai/gsm8k", "main", "train")]


class Session:
    """Stands for the hub's HTTP client: answers with a status, or raises."""

    def __init__(self, outcome: int | Exception) -> None:
        self.outcome, self.asked = outcome, 0

    @property
    def status_code(self) -> int | Exception:
        return self.outcome

    def head(self, url: str, timeout: float) -> Session:
        self.asked += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self


@pytest.mark.parametrize(
    ("outcome", "reachable"), [(200, True), (307, True), (503, False), (OSError("Name unknown"), False)]
)
def test_the_hub_is_asked_once_and_briefly(
    monkeypatch: pytest.MonkeyPatch, outcome: int | Exception, reachable: bool
) -> None:
    session = Session(outcome)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: session)
    hub.hub_reachable.cache_clear()

    answers = [hub.hub_reachable(), hub.hub_reachable()]
    hub.hub_reachable.cache_clear()

    assert answers == [reachable, reachable]
    assert session.asked == 1


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(200)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: session)
    hub.hub_reachable.cache_clear()

    reachable = hub.hub_reachable()
    hub.hub_reachable.cache_clear()

    assert not reachable
    assert session.asked == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 72", "72"),
        ("1,080", "1080"),
        ("$1,080.50 in all", "1080.5"),
        ("-$5", "-5"),
        ("$-5.00", "-5"),
        ("007.0", "7"),
        (".50", "0.5"),
        ("-0.0", "0"),
        ("72.", "72"),
        ("100", "100"),
        ("7<|eos|>", "7"),
        ("seven", None),
        ("x 7", None),
        ("", None),
        ("٧", None),
    ],
)
def test_numbers_are_normalised(text: str, number: str | None) -> None:
    assert leading_number(text) == number


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3), st.integers(0, 4))
def test_normalised_numbers_are_equal_exactly_when_their_values_are(value: Decimal, zeros: int) -> None:
    plain = f"{value:f}"
    nearby = f"{value + Decimal('0.001'):f}"

    normalised = leading_number(plain + "0" * zeros)

    assert normalised == leading_number(plain)
    assert normalised is not None
    assert Decimal(normalised) == value
    assert leading_number(normalised) == normalised
    assert normalised != leading_number(nearby)


def test_a_file_is_known_by_its_content_and_another_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, CLIPS)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()

    assert read_gsm8k(path, "--train_file", sha256=digest) == read_gsm8k(path, "--train_file")
    with pytest.raises(InputError, match="is not the file of this trial"):
        read_gsm8k(path, "--train_file", sha256="0" * 64)


def test_a_file_that_never_ends_is_refused() -> None:
    with pytest.raises(InputError, match="it is no file"):
        read_gsm8k("/dev/zero", "--train_file")
