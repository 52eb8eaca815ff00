"""Command-line flags of one trial: DistillConfig's fields by name. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import get_args

import tyro

from trainables.config import LITERALS, DistillConfig, one_line, unknown

SWITCHES = ("map_proj_share_dim", "map_proj_init_uniform", "drop_last_step", "shuffle_teacher")
"""Fields that are on or off."""

_WORDS = {"true": "True", "1": "True", "yes": "True", "false": "False", "0": "False", "no": "False"}


@dataclass(frozen=True, kw_only=True)
class _Unchecked(DistillConfig):
    """The same fields without the checks, so that their errors are ours and not the parser's."""

    def __post_init__(self) -> None:
        pass


def parse(argv: Sequence[str], prog: str) -> DistillConfig:
    """The config that `argv` spells; exits with 2 on a value of the wrong type, raises InputError otherwise.

    Underscores or dashes; a switch may stand alone (--map_proj_share_dim), take true or false, or be
    negated (--no_map_proj_share_dim).
    """
    words = tyro.cli(
        _Unchecked,
        prog=prog,
        args=_normalised(argv),
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff,),
        description="One trial of KV-cache distillation, without Ray.",
    )
    return DistillConfig(**asdict(words))


def _normalised(argv: Sequence[str]) -> list[str]:
    known = {field.name for field in fields(DistillConfig)}
    out: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--help":
            out.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name.removeprefix("no_") in SWITCHES:
            value = value if equals else _following_word(rest)
            on = _WORDS.get(value.lower(), value) if value else "True"
            if name.startswith("no_"):
                on = {"True": "False", "False": "True"}.get(on, on)
            out += [f"--{name.removeprefix('no_')}", on]
            continue
        if name not in known:
            raise unknown("flag", f"--{name}", (f"--{field}" for field in known))
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else ""
        if name in LITERALS and value not in get_args(LITERALS[name]):
            raise unknown(f"--{name}", value, get_args(LITERALS[name]))
        out += [f"--{name}", value] if value or equals else [f"--{name}"]
    return out


def _following_word(rest: list[str]) -> str:
    """A truth word after a switch is taken; anything else is left where it stands."""
    return rest.pop(0) if rest and rest[0].lower() in _WORDS else ""


def fail(prog: str, error: Exception) -> int:
    """One line for bad input, and the exit code for it."""
    print(f"{prog}: error: {one_line(error)}", file=sys.stderr)
    return 2
