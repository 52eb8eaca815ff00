"""YAML as people expect it: 5e-5 is a number, `no` is a word, and a key given twice is an error.

PyYAML reads YAML 1.1, where 5e-5 is text, 1:30 is ninety, and `no` is False. The loader here is its safe
loader (no Python objects) with the plain scalars of YAML 1.2's core schema instead.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from trainables.config import InputError, Mistakes

NUMBER_START = list("-+.0123456789")


MOST_VALUES = 100_000
WAYS = {
    "'\\t'": "a tab stands there, and lines are set in by spaces",
    "mapping values are not allowed": "a name ends with a colon and a space, a text with a colon is quoted",
    "could not find expected ':'": "a name is followed by a colon and a space",
}
"""How what PyYAML complains of is mended."""


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[str] = []
        """Names that a mapping gives twice, each with its line."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the name {key!r} is not text: quote it", key_node.start_mark
                )
            if key in seen:
                self.twice.append(f"{key!r} is given twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _floating(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan"))


_Loader.yaml_implicit_resolvers = {}  # its own, without those of YAML 1.1
for tag, pattern, first in (
    ("null", r"^(?:~|null|)$", ["~", "n", ""]),
    ("bool", r"^(?:true|false)$", list("tf")),
    ("int", r"^[-+]?[0-9]+$", NUMBER_START),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$",
        NUMBER_START,
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), first)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _floating)


def parse(text: str, source: str) -> Any:
    """The values in one YAML document; `source` names the file or flag in the error."""
    try:
        values = _loaded(text, source)
        if _extent(values, {}) > MOST_VALUES:
            raise InputError(
                f"{source} holds more than {MOST_VALUES:,} values once its aliases (*name) are written out, "
                "or one within itself: write them out, or leave them out."
            )
        return values
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not valid YAML: {_one_line(error)}.") from None
    except InputError:
        raise
    except (RecursionError, ValueError) as error:
        raise InputError(f"{source} cannot be read: {' '.join(str(error).split())[:200]}.") from None


def _loaded(text: str, source: str) -> Any:
    loader = _Loader(text)
    try:
        values = loader.get_single_data()
    finally:
        loader.dispose()
    if loader.twice:
        raise Mistakes([f"{each}: keep one of the two." for each in dict.fromkeys(loader.twice)], source)
    return values


def _extent(value: Any, known: dict[int, int]) -> int:
    """How many values it holds with every alias written out; each shared one is counted but once."""
    if not isinstance(value, (dict, list, set)):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES  # stands while it is counted: one within itself is too many
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_extent(one, known) for one in inner)
    return known[id(value)]


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    for sign, way in WAYS.items():
        problem += f": {way}" * (sign in problem)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return " ".join(problem.split()) + place
