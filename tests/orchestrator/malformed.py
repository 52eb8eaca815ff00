"""More than two hundred malformed experiments and command lines, the same ones every time.

A case writes its files into an empty folder and names the arguments of kvtune. PLACE in an argument is that
folder, STORE the storage in it, which must not be there afterwards.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from tests.fakes import experiment
from trainables.config import DistillConfig

SEED = 20260
RUN = ("run", "PLACE/x.yaml", "--storage", "STORE", "--address", "serial")


@dataclass(frozen=True)
class Case:
    """One malformed input."""

    name: str
    arguments: tuple[str, ...] = RUN
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    """Symbolic link -> where it leads."""


def all_cases() -> list[Case]:
    """Every case, its name unique."""
    dice = random.Random(SEED)
    kinds = (names, types, shapes, texts, bytes_, links, commands, overrides)
    found = [case for kind in kinds for case in kind(dice)]
    assert len({case.name for case in found}) == len(found)
    return found


def from_text(name: str, text: str | bytes, *arguments: str) -> Case:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return Case(name, (*RUN, *arguments), {"x.yaml": content})


def from_values(title: str, /, **changes: Any) -> Case:
    return from_text(title, json.dumps(experiment(**changes)))


NAMES = [
    "", " ", ".", "..", "../x", "x/../../y", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", "a\rb", "a\tb",
    ".hidden", "-rf", "~", "~root", "$HOME", "`id`", "a;b", "a b", "a" * 65, "a" * 100_000, "%2e%2e%2f",
    "file:///x", "C:x", "\u2025", "\uff0e\uff0e", "\u2024\u2024/x", "fl\u0430t", "\u202etxt", "caf\u00e9",
    "\u200bflat", "flat\u200b", "a\u2215b", "a\u2044b", "\U0001f600", "\x1b[31m", "{{7*7}}", "<script>",
    "a,b=1",
]  # fmt: skip


def names(dice: random.Random) -> Iterator[Case]:
    """Names of experiments and arms that could leave the storage, or be taken for something else."""
    for number, name in enumerate(NAMES):
        yield from_values(f"experiment name {number}", name=name)
        arms = {name: {"alignment_mode": "flat"}, "other": {"alignment_mode": "structured"}}
        yield from_values(f"arm name {number}", arms=arms, analysis={"baseline": "other"})
    for number, name in enumerate(dice.sample(NAMES, 8)):
        yield from_values(f"baseline {number}", analysis={"baseline": name})
        yield from_values(f"grid axis {number}", grid={name: [1, 2]})


WRONG: dict[type, list[Any]] = {
    bool: ["yes", 1, 0, [], {}, 0.5, "true"],
    int: ["7", 1.5, True, [1], {}, -(10**400), 10**400, "1e3", float("inf"), float("nan"), "0x10"],
    float: ["1e-3", True, [0.1], {}, float("inf"), float("-inf"), float("nan"), "", "1_000"],
    str: [1, 1.5, True, [], ["a"], {}, {"a": 1}],
}
"""Values that are not of the type, whatever the field."""


def types(dice: random.Random) -> Iterator[Case]:
    """A value of a wrong type in every field that there is."""
    for name, hint in get_type_hints(DistillConfig).items():
        kinds = [kind for kind in (get_args(hint) or (hint,)) if kind in WRONG] or [str]
        pool = [v for v in WRONG[kinds[0]] if not (kinds[0] is float and v == 0)]
        section = dice.choice(["base", "arms", "grid"])
        value = dice.choice(pool)
        if section == "base":
            changes: dict[str, Any] = {"base": {**experiment()["base"], name: value}}
        elif section == "arms":
            changes = {"arms": {**experiment()["arms"], "odd": {name: value}}}
        else:
            changes = {"grid": {name: [value, value]}}
        yield from_values(f"type of {section}.{name}", **changes)
    for name, value in OTHER_FIELDS:
        section, _, inner = name.partition(".")
        whole = experiment()
        values = {**whole.get(section, {}), inner: value} if inner else value
        yield from_values(f"{name} is {str(value)[:30]!r}", **{section: values})


OTHER_FIELDS: list[tuple[str, Any]] = [
    ("name", None), ("name", 3), ("name", ["a"]), ("base", 3), ("base", ["lr"]), ("base", "lr"),
    ("arms", None),
    ("arms", []), ("arms", {}), ("arms", {"one": {}}), ("arms", {"a": 1, "b": 2}), ("arms", "flat"),
    ("arms", {"a": [], "b": {}}), ("grid", 3), ("grid", ["lr"]), ("grid", {"lr": {}}), ("grid", {"lr": []}),
    ("grid", {"lr": "x"}), ("grid", {"lr": [[1]]}), ("grid", {"lr": [None]}), ("grid", {"seed": [1, 2]}),
    ("grid", {"output_dir": ["/tmp/a", "/tmp/b"]}), ("seeds", None), ("seeds", []), ("seeds", "x"),
    ("seeds", ""),
    ("seeds", "0-"), ("seeds", "5-1"), ("seeds", "0-99999999999"), ("seeds", "1,,2"), ("seeds", [0, 0]),
    ("seeds", [-1]), ("seeds", [2**31]), ("seeds", [10**400]), ("seeds", [0.5]), ("seeds", [True]),
    ("seeds", ["0"]), ("seeds", {"a": 1}), ("seeds", 3), ("seeds", list(range(10_001))), ("seeds", "０-５"),
    ("analysis", None), ("analysis", []), ("analysis", "flat"), ("analysis.baseline", None),
    ("analysis.baseline", ["flat"]), ("analysis.primary", "loss"), ("analysis.primary", 1),
    ("analysis.at", "best"), ("analysis.k", 0), ("analysis.k", "3"), ("analysis.direction", "up"),
    ("analysis.margin", -1), ("analysis.margin", "0.1"), ("analysis.margin", float("inf")),
    ("analysis.sesoi", 0), ("analysis.secondary", "eval_ce"), ("analysis.secondary", [1]),
    ("analysis.secondary", ["steps_to_101"]), ("analysis.secondary", ["../x"]), ("analysis.alpha", 0),
    ("analysis.alpha", 2), ("analysis.alpha", "5%"), ("analysis.mode", "AB"), ("analysis.looks", 6),
    ("analysis.looks", ["6"]), ("analysis.looks", [6, 3]), ("analysis.looks", [1]), ("analysis.nope", 1),
    ("resources", None), ("resources", 4), ("resources.cpus", 0), ("resources.cpus", -1),
    ("resources.cpus", 10**9), ("resources.cpus", 1.5), ("resources.cpus", "all"), ("resources.gpus", -1),
    ("resources.gpus", 65), ("resources.gpus", "1"), ("resources.max_failures", -1),
    ("resources.max_failures", 101), ("resources.memory", 1), ("nope", 1), ("__class__", {}),
    ("model_config", {}),
    ("to_yaml", 1),
]  # fmt: skip


def shapes(dice: random.Random) -> Iterator[Case]:
    """Arms and axes that are each sound and cannot stand together."""
    flat, structured = {"alignment_mode": "flat"}, {"alignment_mode": "structured"}
    yield from_values("twins", arms={"flat": flat, "twin": flat})
    yield from_values("twins by a number's type", arms={"flat": {"lr": 1}, "twin": {"lr": 1.0}})
    yield from_values("an axis in an arm", grid={"alignment_mode": ["flat", "structured"]})
    yield from_values("an axis of one value twice", grid={"lr": [1, 1.0]})
    yield from_values("a flag without effect", arms={"flat": {**flat, "map_proj_share_dim": True}, "b": {}})
    yield from_values("aa of two configurations", analysis={"baseline": "flat", "mode": "aa"})
    yield from_values("an offset outside aa", arms={"flat": {**flat, "seed_offset": 9}, "b": structured})
    for offset in (-1, 1, 2**31, "9", 1.5, None, [], 10**400):
        arms = {"flat": flat, "b": {**flat, "seed_offset": offset}}
        yield from_values(
            f"offset {str(offset)[:20]}", arms=arms, analysis={"baseline": "flat", "mode": "aa"}
        )
    for name in dice.sample(sorted(get_type_hints(DistillConfig)), 6):
        yield from_values(f"misspelt {name}", base={**experiment()["base"], f"{name}s_": 1})


VALID = json.dumps(experiment(), indent=1)
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
TEXTS = {
    "empty": "", "spaces": "  \n\n", "comment": "# nothing", "null": "null", "a word": "experiment",
    "a number": "3",
    "a list": "- 1\n- 2", "two documents": f"{VALID}\n---\n{VALID}", "unclosed": "a: [", "tab": "a:\n\tb: 1",
    "bomb": BOMB, "bomb in a field": BOMB + "name: *a11\n", "loop": "&a [*a]",
    "loop in a map": "&a {name: *a}",
    "undefined alias": "name: *nowhere", "deep list": "[" * 5000, "deep map": "{a: " * 3000,
    "deep closed list": "[" * 900 + "]" * 900,
    "python tag": "!!python/object/apply:os.system ['touch PLACE/pwned']",
    "python name": "name: !!python/name:os.system", "python module": "name: !!python/module:os",
    "own tag": "name: !run x", "binary": "name: !!binary aGk=", "set": "base: !!set {lr}",
    "timestamp": "name: !!timestamp 2001-01-01",
    "merge key": "base: &b {lr: 1}\narms:\n  flat: {<<: *b}", "merge of a word": "<<: 3",
    "number as key": "1: 2",
    "null as key": "~: 2", "list as key": "? [a]\n: 1", "map as key": "? {a: 1}\n: 1",
    "bool as key": "true: 1",
    "key twice": f"name: a\n{VALID[1:-1]}", "arm twice": "name: a\narms: {flat: {}, flat: {}}",
    "field twice": "base: {lr: 1, lr: 2}", "nul": "name: \0", "bell": "name: \a", "surrogate": "name: \ud800",
    "directive": "%YAML 9.9\n---\nname: a", "huge integer": "seeds: [" + "9" * 5000 + "]",
    "huge float": 'base: {lr: 1e999}\nname: "a"', "hex": VALID.replace("0.001", "0x1p-3"),
    "infinity": VALID.replace("0.001", ".inf"), "nan": VALID.replace("0.001", ".nan"),
    "octal": VALID.replace("0.001", "0o17"), "underscore": VALID.replace("0.001", "1_0"),
    "sexagesimal": VALID.replace("0.001", "1:30"), "a long line": "a: " + "x" * 1_000_000,
}  # fmt: skip


def texts(dice: random.Random) -> Iterator[Case]:
    """Files that are no YAML, no mapping, or a trap; and a sound one cut or damaged at random."""
    for name, text in TEXTS.items():
        yield from_text(f"text: {name}", text)
    for number in range(15):
        yield from_text(f"cut {number}", VALID[: dice.randrange(1, VALID.index('"analysis"'))])
    for number in range(15):
        at = dice.randrange(1, VALID.index('"seeds"'))
        yield from_text(f"damage {number}", VALID[:at] + dice.choice("\0\x07{[}]:\"'") * 3 + VALID[at:])


def bytes_(dice: random.Random) -> Iterator[Case]:
    """Files that are no UTF-8."""
    for encoding in ("utf-16", "utf-16-le", "utf-32", "cp037"):
        yield from_text(f"encoding {encoding}", ("# caf\u00e9\n" + VALID).encode(encoding, "replace"))
    yield from_text("latin-1", VALID.replace("fake", "caf\u00e9").encode("latin-1"))
    yield from_text("gzip", b"\x1f\x8b\x08\x00" + dice.randbytes(200))
    for number in range(5):
        yield from_text(f"noise {number}", b"\xff" + dice.randbytes(500))


def links(dice: random.Random) -> Iterator[Case]:
    """Symbolic links and files where folders should be."""
    sound = {"x.yaml": VALID.encode()}
    yield Case("experiment file is a loop", links={"x.yaml": "x.yaml"})
    yield Case("experiment file leads nowhere", links={"x.yaml": "/nonexistent/y.yaml"})
    yield Case("experiment file is a folder", files={"x.yaml/inner": b""})
    yield Case("experiment file is endless", links={"x.yaml": "/dev/zero"})
    yield Case("storage is a file", ("run", "PLACE/x.yaml", "--storage", "PLACE/x.yaml"), sound)
    yield Case("storage is below a file", ("run", "PLACE/x.yaml", "--storage", "PLACE/x.yaml/y"), sound)
    yield Case(
        "storage is a loop", ("run", "PLACE/x.yaml", "--storage", "PLACE/loop"), sound, {"loop": "loop"}
    )
    at = ("run", "PLACE/x.yaml", "--storage", "PLACE/s", "--address", "serial")
    yield Case("experiment folder leads out", at, {**sound, "out/keep": b""}, {"s/fake": "../out"})
    yield Case("experiment folder leads nowhere", at, {**sound, "s/keep": b""}, {"s/fake": "../gone"})
    yield Case("experiment folder is a file", at, {**sound, "s/fake": b"thesis"})
    yield Case("experiment folder holds other files", at, {**sound, "s/fake/thesis.tex": b""})
    plan = json.dumps({"name": "fake", "arms": {"flat": {}}, "seeds": [0]}).encode()
    yield Case(
        "trials lead out",
        at,
        {**sound, "s/fake/plan.json": plan, "out/x": b""},
        {"s/fake/trials": "../../out"},
    )
    for number, broken in enumerate(BROKEN_PLANS):
        yield Case(f"plan.json {number}", at, {**sound, "s/fake/plan.json": broken})


BROKEN_PLANS = [
    b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"{}", b'{"name": "fake"}',
    b'{"name": "fake", "arms": 3, "seeds": [0]}',
    b'{"name": "fake", "arms": {"flat": {}}, "seeds": 3}',
    b'{"name": "other", "arms": {"flat": {}}, "seeds": [0]}',
    b'{"name": "fake", "arms": {"a": {}}, "seeds": [0]}',
    b'{"name": "fake", "arms": {"flat": {}}, "seeds": [0], "history": 3}',
    b'{"name": "fake", "arms": {"flat": {}}, "seeds": [0], "history": [{}]}',
    b'{"name": "fake", "arms": {"flat": {}}, "seeds": [0], "cells": 3}',
    b'{"name": "fake", "arms": {"flat": {}}, "seeds": [0], "cells": [{}]}',
    b'{"name": "fake", "arms": {"flat": {}}, "seeds": [0], "cells": [{"arm": "flat", "seed": 0, '
    b'"config_hash": "", "trial_id": "../../../etc"}]}',
    b'{"name": "fake", "arms": {"flat": 3}, "seeds": [0]}',
    b"[" * 100_000,
]  # fmt: skip


COMMANDS = [
    (), ("",), ("rnu",), ("../run",), ("run\0",), ("--version",), ("--nope",), ("run", "--nope"),
    ("run", "--seeds"),
    ("run", "--set"), ("run", "--storage"), ("run", "--address"), ("run", "a", "b"), ("run", "quickstrat"),
    ("run", ""), ("run", "/"), ("run", "."), ("run", "\0"), ("run", "x" * 100_000), ("run", "nowhere.yaml"),
    ("run", "smoke", "--seeds", ""), ("run", "smoke", "--seeds", "-1"), ("run", "smoke", "--seeds", "0-1-2"),
    ("run", "smoke", "--seeds", "1e3"), ("run", "smoke", "--seeds", "0-999999999"),
    ("run", "smoke", "--seeds", "9" * 5000),
    ("run", "smoke", "--seeds", "0,0"), ("run", "smoke", "--seeds", "\u0663"),
    ("run", "smoke", "--address", ""),
    ("run", "smoke", "--address", "nope"), ("run", "smoke", "--address", "a:b:c"),
    ("run", "smoke", "--address", "127.0.0.1:1"),
    ("run", "smoke", "--address", "127.0.0.1:99999999"), ("run", "smoke", "--address", "127.0.0.1:-1"),
    ("run", "smoke", "--address", "\0:1"), ("run", "smoke", "--storage", "s3://bucket/x"),
    ("run", "smoke", "--storage", "\0"),
    ("run", "smoke", "--storage", "/proc/nowhere"), ("run", "smoke", "--storage", "~nobody-here/x"),
    ("run", "smoke", "--storage", "x" * 5000), ("run", "smoke", "--yes=maybe"),
    ("run", "smoke", "--set=name"),
    ("plan", "quickstrat"), ("plan", "smoke", "--seeds", "x"), ("plan", "smoke", "--address", "nope"),
    ("plan", "smoke", "--address", "nowhere.yaml"), ("plan", "smoke", "--address", "PLACE"),
    ("plan", "smoke", "--nope"),
    ("plan", "smoke", "--set", "resources.cpus=4096"), ("plan", "smoke", "--storage", "\0"),
    ("submit",), ("submit", "quickstrat"), ("submit", "smoke", "--seeds", "x"),
    ("submit", "smoke", "--cpus", "-1"),
    ("submit", "smoke", "--address", "http://127.0.0.1:1"), ("submit", "smoke", "--address", "ftp://x"),
    ("logs",), ("logs", "x", "--address", "http://127.0.0.1:1"), ("logs", "../x", "--nope"),
    ("stop",), ("stop", "x", "--address", "http://127.0.0.1:1"), ("stop", "x", "y"),
    ("fetch",), ("fetch", "x", "--address", "http://127.0.0.1:1"), ("fetch", "x", "--to"),
    ("report", "--from", "nope", "x"), ("report", "--from", "csv"),
    ("report", "--from", "csv", "/nowhere.csv"),
    ("report",), ("report", "/nowhere"), ("report", "\0"), ("report", "PLACE"), ("report", "PLACE", "--nope"),
    ("status",), ("status", "/nowhere"), ("status", "\0"), ("status", "PLACE"), ("status", "PLACE", "PLACE"),
    ("train", "--nope"), ("train", "--lr", "-1"), ("train", "--alignment_mode", "falt"),
    ("train", "--model_name", "tiny-lama", "--output_dir", "STORE"),
    ("train", "--train_file", "\0", "--output_dir", "STORE"),
    ("train", "--model_name", "tiny-llama", "--dataset", "arithmetic", "--output_dir", "\0"),
    ("train", "--model_name", "tiny-llama", "--dataset", "arithmetic", "--output_dir", "/proc/nowhere"),
]  # fmt: skip


def commands(dice: random.Random) -> Iterator[Case]:
    """Command lines that no file can save."""
    for number, words in enumerate(COMMANDS):
        yield Case(f"command {number}: {' '.join(words)[:40]!r}", words)


JSON_FILES = (
    "plan.json", "provenance.json", "report/results.json", "trials/*/config.json", "trials/*/result.json",
    "trials/*/metrics.jsonl", "trials/*/predictions.jsonl", "trials/*/attempts.jsonl",
    "trials/*/trackers.json",
)  # fmt: skip
"""Every JSON file of an experiment's folder."""
JSON_KINDS: dict[str, bytes] = {
    "empty": b"", "open": b'{"name": "fa', "deep": b"[" * 100_000, "beyond all numbers": b'{"step": 1e400}',
    "of 5,000 digits": b'{"seeds": [' + b"9" * 5000 + b"]}", "a list": b"[1]", "a number": b"3",
    "null": b"null", "a text": b'"x"', "without fields": b"{}", "not UTF-8": b'{"name": "\xff"}',
    "marked": b"\xef\xbb\xbf{}", "zeros": bytes(64),
    "numbers for text": b'{"name": 3, "config_hash": 3, "status": 3, "event": 3, "item_id": 3, "at": 3}\n',
    "text for numbers": b'{"step": "x", "attempt": "x", "seeds": ["x"], "completed_steps": "x"}\n',
    "lists for objects": b'{"metrics": [], "attempt": {}, "cells": 3, "arms": null, "tensorboard": [], '
    b'"versions": [], "record": [], "earlier_launches": 3, "plan_hash": []}\n',
    "of one name twice": b'{"status": "completed", "status": "diverged", "name": "fake", "name": "fake"}\n',
}  # fmt: skip


OVERRIDES = [
    "", "=", "=3", "base.lr", "base.lr=", "base.lr=x", "base.lr=[", "base..lr=3", ".lr=3", "base.lr.x=3",
    "lr=3",
    "base=3", "arms=3", "arms.flat=3", "arms.flat.lr=x", "arms.nope.lr=3", "arms..lr=3", "arms.../x.lr=3",
    "name=../x", "name=", "name=null", "seeds=x", "analysis.baseline=nope", "analysis.nope=3", "nope.nope=3",
    "__class__.x=3", "base.__class__=3", "base.lr=!!python/name:os.system", "base.lr=&a [*a]",
    "base.lr=" + "9" * 5000,
    "base.lr=1e999", "base.lr=.nan", "base.lr=\0", "base.\0=3", "base.model_name=\0", "base.train_file=\0",
    "base.output_dir=/tmp/x", "base.seed=3", "grid.lr=3", "grid.lr=[]", "grid.nope=[1]", "resources.cpus=0",
    "base.lr={a: 1, a: 2}", "base.threads=3", "base.train_sha256=x", "base.save_total_limit=0",
    "base.device=cuda:0",
    "base.batch_size=" + "9" * 400,
]  # fmt: skip


def overrides(dice: random.Random) -> Iterator[Case]:
    """A sound file, and one --set that is not."""
    for number, override in enumerate(OVERRIDES):
        yield from_text(f"override {number}: {override[:30]!r}", VALID, "--set", override)
