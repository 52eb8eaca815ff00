"""The one rule by which answers are read, of files and of students."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.answers import leading_number
from trainables.arithmetic import VOCABULARY
from trainables.data import parse_answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 72", "72"),
        ("1,080", "1080"),
        ("$1,080.50 in all", "1080.5"),
        ("1,234,567.50", "1234567.5"),
        ("-$5", "-5"),
        ("$-5.00", "-5"),
        ("−5", "-5"),
        ("+3", "3"),
        ("007.0", "7"),
        (".50", "0.5"),
        ("-0.0", "0"),
        ("72.", "72"),
        ("100", "100"),
        ("7<|eos|>", "7"),
    ],
)
def test_numbers_are_normalised(text: str, number: str) -> None:
    assert leading_number(text) == number


@pytest.mark.parametrize(
    "unit",
    [
        " clips", " clips.", "%", " %", "$", " €", "kg", " kg", " km/h", " km²", "°", " °C",
        "-star", " party hats", " o'clock", " USD a day", " seconds", " times as many", " Stück",
        " more of them\nin all",
    ],
)  # fmt: skip
def test_a_unit_is_dropped(unit: str) -> None:
    assert leading_number("72" + unit) == "72"


@pytest.mark.parametrize(
    "text",
    [
        "1/2", "1 1/2", "1½", "½", "1 / 2", "2 over n", "3 quarters", "2 thirds", "3 and a half", "5 and six",
        "1e6", "1E6", "1e-3", "1.5e3", "10^6", "10**6", "10²", "3×10^5", "10 squared",
        "2 to the power of six", "1,2,3",
        "5,5", "5,", "0,500", "01,234", "1,00", "1,000,00", "12,34,567", "1,0000", "1,000,5",
        "1.000.000", "1.000,50", "1..5", "1.2.3", "1 000", "1\u00a0000", "1\u2009000", "1'000", "1_000",
        "0x1F", "3:30", "3h30", "5:4", "3 hours 30 minutes", "5 feet six", "2 dollars and 50 cents", "3 4",
        "3-4", "3–4", "3 to 4", "3 or 4", "3+4", "3*4", "5 minus x", "12 (13)", "7 #### 8",
        "2\\sqrt{3}", "2√3", "2π", "2 pi", "2x", "3x²", "2a", "3i", "5!", "5k", "5K", "$5M", "5 M", "5k€",
        "5 bn", "2 million", "1.5 billions", "3 dozen", "4 hundred", "7 thousandths", "5 lakh", "5万",
        "--5", "+-5", "-$-5", "- 5", "±5", "(5)", "~5", "about 5", ">5", "= 5", "\\boxed{72}", "**72**",
        "seven", "x 7", "None", "nan", "inf", "", ".", "$", "%", "٧", "７",
    ],
)  # fmt: skip
def test_what_is_not_one_plain_number_is_none_and_never_another(text: str) -> None:
    assert leading_number(text) is None
    assert parse_answer(f"48/2=24\n#### {text}<|eos|>", "gsm8k") is None


def test_a_students_answer_ends_with_its_line_and_a_files_must_be_alone() -> None:
    assert parse_answer("48/2=24\n#### 72\n73", "gsm8k") == "72"
    assert leading_number("72\n73") is None


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


@given(st.text("0123456789.,-+−$€%/:^e x½²\n", max_size=9))
def test_a_value_is_the_only_number_of_its_text(text: str) -> None:
    """Whatever is read as a number has just one run of digits, points and commas: nothing was passed over."""
    said = leading_number(text)

    if said is not None:
        (digits,) = "".join(c if c in "0123456789.," else " " for c in text).split() or ("",)
        assert Decimal(said).copy_abs() == Decimal(digits.replace(",", "").rstrip("."))


@given(st.lists(st.sampled_from([*VOCABULARY, "ANS"]), max_size=12))
def test_the_built_in_task_reads_the_word_after_its_mark_whatever_follows(words: list[str]) -> None:
    after = words[words.index("ANS") + 1 :] if "ANS" in words else []

    said = parse_answer(" ".join(words), "arithmetic")

    assert said == (after[0] if after and after[0].isdigit() else None)
