"""The frozen teacher's lessons, computed once (teaching.py) and read by every trial, seed and epoch.

A cache is a folder: safetensors shards named by the SHA-256 of their content, a receipt for each that is
written after it, and an index that is written last. So neither a killed writer nor two at once leave anything
that is believed before it is whole. Trials read through a private memory map and take copies of the rows they
ask for: none can change what another reads. The node's page cache is the local copy: the first trial that
reads a shard, to check its hash, brings it there for all others, and it makes room where memory is short.

What is cached belongs to a row alone (see teacher.frozen_lesson), so that a trial's losses are the same with
and without, to the bit in float32 on a CPU. On a GPU, and in bfloat16, a library may choose another order of
sums for another batch, and the two agree to rounding only. Not cached: a teacher that shares the student's
weights, and a random selection, which is drawn anew for every step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NotRequired
from uuid import uuid4

import torch
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from trainables.config import DistillConfig, InputError
from trainables.device import to_device
from trainables.json_files import LARGE, CorruptFile, Whole, opened, read_object
from trainables.kv_cache import CacheShape, KVCache
from trainables.losses import Standardiser
from trainables.rows import Rows
from trainables.teacher import Lesson, Shown, Yardstick, joined, keeps_whole_chains
from trainables.tokenizers import Encoded, encoded_hash
from trainables.trial_folder import write_text

INDEX = "index.json"
COMMON = "common"
"""The part that is no rows' own: the yardstick, and what is shown of the held-out rows."""
ABANDONED_S = 86_400
"""Age of an unfinished file whose writer must be dead."""
SOURCES = (
    "device.py", "kv_cache.py", "batches.py", "rows.py", "capture.py", "reading.py", "losses.py",
    "teacher.py", "teacher_cache.py", "teaching.py", "aligners/resample.py", "compressors/*.py",
)  # fmt: skip
"""The code that a lesson follows from: after an edit of it no older cache is believed."""

log = logging.getLogger(__name__)


@with_config(ConfigDict(extra="allow"))
class Receipt(TypedDict):
    """What is read of a shard's receipt; it holds more."""

    key: str
    file: Annotated[str, Field(pattern=r"^[0-9a-f]+\.safetensors$")]
    sha256: str
    rows: NotRequired[list[Whole]]


@with_config(ConfigDict(extra="allow"))
class Index(TypedDict):
    """What is read of a finished cache's index."""

    recipe: dict[str, Any]
    shape: list[Whole]
    width: Whole
    common: Receipt
    parts: list[Receipt]


RECEIPT, INDEX_FILE = TypeAdapter(Receipt), TypeAdapter(Index)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a cache's content follows from, and nothing else."""

    teacher: str
    """Its weights and configuration, hashed."""
    train: str
    """The training rows as the teacher reads them: so tokenizer, data set, split and drop_last_step."""
    held_out: str
    """The held-out rows that are shown, likewise."""
    student: str
    kv_method: str
    target_len: int | None
    rkv_lambda: float | None
    k_space: str
    layers: tuple[int, ...]
    """The teacher's layers that are compared."""
    dtype: str
    device: str
    """cpu or cuda."""
    versions: tuple[str, ...]
    code: str

    @classmethod
    def of(
        cls, config: DistillConfig, train: Rows, shown: Sequence[Encoded], layers: Tensor, teacher: str
    ) -> Recipe:
        rkv_lambda = 0.1 if config.rkv_lambda is None else config.rkv_lambda
        return cls(
            teacher=teacher,
            train=encoded_hash(train.teacher),
            held_out=encoded_hash(shown),
            student=config.student,
            kv_method=config.kv_method,
            target_len=None if keeps_whole_chains(config) else config.target_len,
            rkv_lambda=rkv_lambda if config.kv_method == "rkv" else None,
            k_space=config.k_space,
            layers=tuple(layers.tolist()),
            dtype=config.dtype,
            device=config.device.partition(":")[0],
            versions=tuple(f"{name} {version(name)}" for name in ("torch", "transformers")),
            code=_code(),
        )

    @property
    def key(self) -> str:
        """Sixteen hex digits: the name of the cache's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


CHECKED = (
    "train",
    "held_out",
    "student",
    "kv_method",
    "target_len",
    "rkv_lambda",
    "k_space",
    "layers",
    "dtype",
)
"""What a trial can tell of its recipe without the teacher; whoever made the cache has seen to the rest."""


class TeacherCache:
    """A finished cache, opened by one trial. A shard is checked and mapped when first asked for."""

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder = folder
        self.recipe: dict[str, Any] = index["recipe"]
        self.shape = CacheShape(*index["shape"])
        self.width: int = index["width"]
        self._common: dict[str, Any] = index["common"]
        self._parts: list[dict[str, Any]] = index["parts"]
        self._place = {
            row: (p, i) for p, part in enumerate(self._parts) for i, row in enumerate(part["rows"])
        }
        self._opened: dict[str, dict[str, Tensor] | None] = {}

    @classmethod
    def open(cls, folder: str | Path) -> TeacherCache | None:
        """The cache in `folder`; None where there is no finished one."""
        index = read_json(Path(folder) / INDEX, INDEX_FILE)
        if index is None:
            log.warning("no finished teacher cache in %s: the teacher runs in every step", folder)
            return None
        return cls(Path(folder), index)

    def check(self, recipe: Recipe) -> None:
        """Refuse a cache of another trial's lessons."""
        mine = json.loads(json.dumps(asdict(recipe)))
        others = [name for name in CHECKED if mine[name] != self.recipe.get(name)]
        if others:
            raise InputError(
                f"--teacher_cache {self.folder} was made for other settings ({', '.join(others)}): "
                "choose another folder, which kvtune train fills, or leave it out."
            )

    @property
    def teacher_hash(self) -> str:
        """The weights' hash."""
        return str(self.recipe["teacher"]).partition("-")[0]

    def lesson(self, rows: Sequence[int], device: torch.device) -> Lesson | None:
        """The lesson of training rows, a copy; None where one of their shards is damaged."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        for position, row in enumerate(rows):
            part, offset = self._place[row]
            wanted.setdefault(part, []).append((position, offset))
        parts = []
        for part, places in wanted.items():
            tensors = self._tensors(self._parts[part])
            if tensors is None:
                return None
            positions, offsets = torch.tensor(places).unbind(1)
            parts.append((positions, _lesson({name: x[offsets] for name, x in tensors.items()})))
        longest = max(int(lesson.cache.full_mask.sum(-1).max()) for _, lesson in parts)
        whole = self.recipe["target_len"] is None
        return joined(parts, longest if whole else self.recipe["target_len"]).to(device)

    def yardstick(self) -> Yardstick | None:
        tensors = self._tensors(self._common)
        if tensors is None:
            return None
        names = ("keys_mean", "keys_std", "values_mean", "values_std")
        return Yardstick(
            Standardiser(**{name: tensors[f"yardstick.{name}"].clone() for name in names}),
            tensors["yardstick.hidden_scale"].clone(),
        )

    def shown(self, device: torch.device) -> Shown | None:
        """What the held-out rows are compared with."""
        tensors = self._tensors(self._common)
        if tensors is None:
            return None
        mine = {name: to_device(x.clone(), device) for name, x in tensors.items()}
        lesson = _lesson(mine)
        chain = lesson.cache
        if "chain.keys" in mine:
            chain = KVCache(mine["chain.keys"], mine["chain.values"], mine["chain.mask"])
        return Shown(lesson, chain, self.recipe["held_out"])

    def _tensors(self, receipt: dict[str, Any]) -> dict[str, Tensor] | None:
        """The tensors of a shard, mapped; None, told once, where it is not what was written."""
        name = receipt["file"]
        if name not in self._opened:
            sound = is_intact(self.folder, receipt)
            if not sound:
                log.warning(
                    "the shard %s of the teacher cache is damaged: its rows are computed on the fly", name
                )
            self._opened[name] = _mapped(self.folder / name) if sound else None
        return self._opened[name]


def lesson_tensors(lesson: Lesson) -> dict[str, Tensor]:
    """A lesson as a shard holds it."""
    cache = lesson.cache
    return {
        "keys": cache.keys,
        "values": cache.values,
        "mask": cache.full_mask,
        "indices": lesson.indices.to(torch.int32),
        "before_answer": lesson.before_answer,
    }


def shown_tensors(shown: Shown, yardstick: Yardstick) -> dict[str, Tensor]:
    """The part common to all rows as its shard holds it."""
    tensors = lesson_tensors(shown.lesson)
    if shown.chain is not shown.lesson.cache:
        chain = shown.chain
        tensors |= {"chain.keys": chain.keys, "chain.values": chain.values, "chain.mask": chain.mask}
    buffers = yardstick.named_buffers()
    return tensors | {f"yardstick.{name.removeprefix('standardiser.')}": buffer for name, buffer in buffers}


def _lesson(tensors: dict[str, Tensor]) -> Lesson:
    cache = KVCache(tensors["keys"], tensors["values"], tensors["mask"])
    return Lesson(cache, tensors["indices"].long(), tensors["before_answer"])


def _mapped(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write_shard(folder: Path, key: str, part: str, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a shard under the hash of its content, and then its receipt; whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    making = folder / f".{part}.{uuid4().hex}.making"
    try:
        save_file({name: x.cpu().contiguous().clone() for name, x in tensors.items()}, making)
        with making.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        making.chmod(0o644)  # safetensors' files are their maker's alone
        name, size = f"{digest[:16]}.safetensors", making.stat().st_size
        os.replace(making, folder / name)
    finally:
        making.unlink(missing_ok=True)
    receipt = {"key": key, "file": name, "sha256": digest, "bytes": size}
    _write_json(folder / f"{part}.json", {**receipt, **about})


def missing(folder: Path, key: str, parts: Iterable[str]) -> list[str]:
    """The parts without a receipt of this key, or whose shard is not, to the byte, what its receipt says."""
    receipts = {part: read_json(folder / f"{part}.json", RECEIPT) for part in parts}
    return [
        part
        for part, receipt in receipts.items()
        if receipt is None or receipt["key"] != key or not is_intact(folder, receipt)
    ]


def seal(folder: Path, parts: Sequence[str]) -> bool:
    """Write the index of a cache whose parts are all there: from now on trials believe it.

    Whether every row's lesson came out the same beside other rows and alone, on the machines that made it.
    """
    receipts = [read_json(folder / f"{part}.json", RECEIPT) for part in (COMMON, *parts)]
    common, *rest = [receipt for receipt in receipts if receipt is not None]
    assert len(rest) == len(parts)
    about = {name: common.pop(name) for name in ("recipe", "shape", "width")}
    for torn in folder.glob("*.making"):
        if time.time() - torn.stat().st_mtime > ABANDONED_S:
            torn.unlink(missing_ok=True)
    _write_json(folder / INDEX, {**about, COMMON: common, "parts": rest})
    return all(part["exact"] for part in rest)


def is_intact(folder: Path, receipt: dict[str, Any]) -> bool:
    """Whether a shard is there with the very bytes that were written."""
    try:
        with opened(folder / receipt["file"]) as file:
            return bool(hashlib.file_digest(file, "sha256").hexdigest() == receipt["sha256"])
    except (OSError, CorruptFile):
        return False


def read_json(path: Path, kind: TypeAdapter[Any]) -> dict[str, Any] | None:
    """A receipt or an index; None where there is none that can be used."""
    try:
        return read_object(path, kind, largest=LARGE)
    except (FileNotFoundError, CorruptFile):
        return None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Like write_text, by writers that do not know of each other."""
    making = path.with_name(f".{path.name}.{uuid4().hex}.making")
    write_text(making, json.dumps(value) + "\n")
    os.replace(making, path)


def _code() -> str:
    room = Path(__file__).parent
    files = sorted(path for pattern in SOURCES for path in room.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
