from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainables import gsm8k, hub
from trainables.config import InputError
from trainables.examples import RowCounts
from trainables.gsm8k import download_gsm8k, read_gsm8k

CLIPS = {
    "question": "Natalia sold 48 clips, then half as many. How many in all? ",
    "answer": "She sold 48/2 = <<48/2=24>>24, so\n48+24 = <<48 + 24=72>>72 in all.\n#### 1,072",
}
AUG = {"question": "q?", "steps": ["<<1+2=3>>", "<<3*2=6>>"], "answer": "6"}


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


Rows = list[tuple[str, list[str], str]]
Form = Callable[[Rows], str]


def lines(make: Callable[[str, list[str], str], str]) -> Form:
    return lambda rows: "".join(make(*row) + "\n" for row in rows)


FORMS: list[Form] = [
    lambda rows: json.dumps([{"question": q, "steps": steps, "answer": a} for q, steps, a in rows], indent=1),
    lambda rows: json.dumps([{"question": q, "cot": " ".join(s), "answer": f"#### {a}"} for q, s, a in rows]),
    lines(lambda q, steps, a: json.dumps({"question": q, "cot": " ".join(steps), "answer": a})),
    lines(lambda q, steps, a: json.dumps({"question": q, "steps": steps, "answer": a, "cot": None})),
    lines(lambda q, steps, a: f"{q}||{' '.join(steps)} #### {a}\r"),
    lines(lambda q, steps, a: json.dumps({"question": q, "answer": f"{' '.join(steps)} #### {a}"})),
]
"""GSM8K-Aug as coconut makes it, as the hub's two have it, as iCoT's text; and others that hold the same."""


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("form", FORMS)
def test_the_public_forms_of_gsm8k_aug_are_read(tmp_path: Path, form: Form, mark: str) -> None:
    path = tmp_path / "rows"
    path.write_text(mark + form([("q|q?", ["<<1+2=3>>", "<<3*2=6>>"], "6"), ("r?", ["<<1-6=-5>>"], "-5.0")]))

    examples, skipped = read_gsm8k(str(path), "--train_file")

    assert [example.text for example in examples] == ["q|q?\n1+2=3 3*2=6\n#### 6", "r?\n1-6=-5\n#### -5"]
    assert skipped == RowCounts()


def test_lines_of_several_forms_may_stand_in_one_file(tmp_path: Path) -> None:
    path = write(tmp_path, CLIPS, AUG, b"  ", b"r?||<<1+2=3>> <<3*2=6>> #### 6")

    examples, _ = read_gsm8k(path, "--train_file")

    assert [example.answer for example in examples] == ["1072", "6", "6"]


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


@pytest.mark.parametrize("nothing", ["", "<< >>", "<<>>", "<<\t>> << >>", "So it is. << >>"])
@pytest.mark.parametrize("form", [FORMS[0], *FORMS[2:]])
def test_rows_without_steps_are_counted_and_left_out_in_every_form(
    tmp_path: Path, form: Form, nothing: str
) -> None:
    path = tmp_path / "rows"
    path.write_text(form([("q0?", ["<<1+2=3>>"], "3"), ("q1?", [nothing], "4"), ("q2?", ["<<5=5>>"], "5")]))

    examples, skipped = read_gsm8k(str(path), "--eval_file")

    assert [example.question for example in examples] == ["q0?\n", "q2?\n"]
    assert skipped == RowCounts(no_equation=1)


@pytest.mark.parametrize("answer", ["<<>> <<1+2=3>>", "<< >><<1+2=3>>3", "<<1+2\n=3>>", "<<1 + 2 = 3>>"])
def test_an_empty_annotation_adds_nothing_to_the_chain(tmp_path: Path, answer: str) -> None:
    (example,), _ = read_gsm8k(write(tmp_path, {**CLIPS, "answer": f"{answer} #### 3"}), "--train_file")

    assert example.chain == "1+2=3\n"


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
        ({**CLIPS, "question": 7}, "question is the number 7, not a text"),
        ({"question": "How many?"}, "has no answer"),
        ({**CLIPS, "answer": None}, "has no answer"),
        ({**CLIPS, "answer": 72}, "answer is the number 72, not a text"),
        ({**CLIPS, "answer": 72.5}, "answer is the number 72.5, not a text"),
        ({**CLIPS, "answer": True}, "answer is True, not a text"),
        ({**CLIPS, "answer": ["72"]}, "answer is ['72'], not a text"),
        ({**AUG, "answer": 6}, "answer is the number 6, not a text"),
        ({**AUG, "answer": "1/2"}, "'1/2' as its answer, which is no plain number"),
        ({**AUG, "steps": [3]}, "steps is [3], not a list of texts"),
        ({**AUG, "steps": "<<1+2=3>>"}, "steps is '<<1+2=3>>', not a list of texts"),
        ({"question": "q?", "cot": 3, "answer": "6"}, "cot is the number 3, not a text"),
        ({"question": "q?", "answer": "6"}, "no final answer after ####"),
        ({**CLIPS, "answer": "<<1+2=3 so <<3*2=6>> #### 6"}, "a << without its >>"),
        ({**CLIPS, "answer": ""}, "has an empty answer"),
        ({**CLIPS, "answer": "<<48/2=24>>24"}, "no final answer after ####"),
        ({**CLIPS, "answer": "<<48/2=24>>24\n####"}, "'' after ####, which is no plain number"),
        ({**CLIPS, "answer": "<<48/2=24>>24\n#### many"}, "'many' after ####, which is no plain number"),
        ({**CLIPS, "answer": "<<48/2=24>>24\n#### 1/2"}, "'1/2' after ####, which is no plain number"),
        (["question", "answer"], "is a JSON list, not an object"),
        (b'{"question": "How', "is not JSON"),
        (b'{"question": "\xff"}', "is not JSON"),
        (b'{"question": "cut \\ud83d?", "answer": "<<1+2=3>> #### 3"}', "is not JSON (unexpected end of hex"),
        (
            b'{"question": "cut \\udc00?", "answer": "<<1+2=3>> #### 3"}',
            "is not JSON (lone leading surrogate",
        ),
        (b'{"question": "q?", "answer": "<<1+2=3>>\xed\xa0\xbd #### 3"}', "is not JSON (invalid unicode"),
        (b"q\xed\xa0\xbd?||<<1+2=3>> #### 3", "is not UTF-8"),
        (b"q?||<<1+2=3>> #### 3:30", "'3:30' after ####, which is no plain number"),
        (b"q?||<<1+2=3>> 3", "no final answer after ####"),
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


def bad(*numbers: int, of: int) -> list[object]:
    rows: list[object] = [{**CLIPS, "question": f"q{number}?"} for number in range(1, of + 1)]
    for number in numbers:
        rows[number - 1] = {**CLIPS, "answer": "<<1+2=3>>3\n#### None"}
    return rows


def test_all_bad_rows_are_named_in_one_sentence_with_their_count(tmp_path: Path) -> None:
    path = write(tmp_path, *bad(2, 4, of=4), b'{"question": "How', {"question": "q?", "answer": 72})

    with pytest.raises(InputError) as error:
        read_gsm8k(path, "--train_file")

    none = "has 'None' after ####, which is no plain number"
    assert str(error.value).startswith(
        f"--train_file {path}: 4 of 6 rows cannot be read: line 2 {none}; line 4 {none}; line 5 is not JSON ("
    )
    assert "; line 6 has a field of the wrong kind: answer is the number 72, not a text: " in str(error.value)
    assert "\n" not in str(error.value)


def test_of_many_bad_rows_ten_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, *bad(*range(3, 1303), of=1319))

    with pytest.raises(
        InputError, match=r": 1,300 of 1,319 rows cannot be read: line 3 .*; and 1,290 more: "
    ) as error:
        read_gsm8k(path, "--train_file")

    assert [f"line {n} has" in str(error.value) for n in (12, 13)] == [True, False]


def test_a_bad_row_of_a_json_list_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([AUG, {**AUG, "answer": "3:30"}, "row"], indent=2))

    with pytest.raises(
        InputError, match=r"2 of 3 rows .*: row 2 has '3:30' as its answer, .*; row 3 is a JSON str"
    ):
        read_gsm8k(str(path), "--train_file")
    path.write_text("[" + json.dumps(AUG))
    with pytest.raises(InputError, match=r"rows\.json is not JSON \(.*line 1"):
        read_gsm8k(str(path), "--train_file")


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


def test_a_file_is_known_by_its_content_and_another_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, CLIPS)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()

    assert read_gsm8k(path, "--train_file", sha256=digest) == read_gsm8k(path, "--train_file")
    with pytest.raises(InputError, match="is not the file of this trial"):
        read_gsm8k(path, "--train_file", sha256="0" * 64)


def test_a_file_that_never_ends_is_refused() -> None:
    with pytest.raises(InputError, match="it is no file"):
        read_gsm8k("/dev/zero", "--train_file")
