"""The number that an answer says. One that only begins with a number (1/2, 3:30, 1e6, 5,5) says another."""

from __future__ import annotations

import re

SIGN, CURRENCY = "[-+−]", "[$€£¥₹]"
LETTER = "A-Za-zÀ-ÖØ-öø-ɏ"
WORD = f"[{LETTER}][{LETTER}'’²³]*"
ANSWER = re.compile(
    rf"(?:{CURRENCY} ?(?P<after>{SIGN})?|(?P<before>{SIGN})?(?:{CURRENCY} ?)?)"
    r"(?P<whole>[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)?(?:\.(?P<fraction>[0-9]+))?"
    rf"(?P<unit>(?: ?[%¢°$€£¥₹])?(?:[ /-]*{WORD}(?:[ /-]+{WORD})*)?)"
    r"\.?(?: ?<\|.*)?"
)
"""A number as English writes it, in digits, with a currency before it and a unit in words after it, both if
at all. A decoded text may end in a special token of its model's (<|...|>)."""
NUMERAL = re.compile(
    rf"^[ /-]*(?:[b-z]|a(?! \w))(?![{LETTER}'’])"  # 5k, 5 M, 2x: a scale or an unknown as well as a unit
    r"|\b(?:[nxyz]|pi|plus|minus|squared|cubed|root|sqrt|bn|mn|mio|mil|mln|mrd|tn|lakhs?|crores?|dozens?"
    r"|half|halves|quarters?|thirds?|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|hundred|thousand)ths?"
    r"|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teens?|hundreds?|thousands?"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)t(?:y|ieth)s?|\w*illi(?:on|ard)\w*)\b",
    re.IGNORECASE,
)
"""What makes another number of the one before it: 2 million, 3 and a half, 5 dozen."""


def leading_number(text: str) -> str | None:
    """The number `text` says, normalised, its unit dropped; None where it says none, or more than one.

    Commas between groups of three digits, currency signs, leading zeros and trailing zeros after the point
    are dropped: $1,080.00 is 1080, 5% is 5. Works on digits, so that no two different numbers become equal.
    """
    found = ANSWER.fullmatch(" ".join(text.split()))
    if found is None or not (found["whole"] or found["fraction"]) or NUMERAL.search(found["unit"]):
        return None
    whole = (found["whole"] or "").replace(",", "").lstrip("0") or "0"
    fraction = (found["fraction"] or "").rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    negative = (found["before"] or found["after"]) in ("-", "−") and number != "0"
    return f"-{number}" if negative else number
