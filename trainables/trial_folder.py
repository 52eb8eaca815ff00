"""A trial's folder is its record: this file owns the name and form of everything in it.

config.json, metrics.jsonl, train.log, checkpoint-N/, predictions.jsonl, result.json (last, atomically), which
seals the record: it holds the SHA-256 and the rows of the files that its numbers rest on, and its own.
JSON is strict: a non-finite number is the string "NaN", "Infinity" or "-Infinity" in metrics.jsonl and null
elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainables.config import DistillConfig, InputError, hash_of, meaning
from trainables.json_files import LARGE, CorruptFile, content, opened, read_lines, read_object
from trainables.record import ITEM, RESULT, ROW, Item, Row, digest, refuse_changed, refuse_open, sum_of

TAIL = 8192
"""Bytes in which the newest row of metrics.jsonl is looked for."""
MANIFEST, RECORD = "manifest.json", "record.json"
"""In a checkpoint: the sums of its files, and that of the rows which metrics.jsonl had by then."""
UNFINISHED = ".checkpoint-"


class StorageFull(OSError):
    """The storage has no room for what a trial must write next."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(errno.ENOSPC, message)
        self.needed = needed
        """Bytes that must be free before it is worth trying again."""


class TrialFolder:
    """Names, reads and writes the files of one trial."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.log = self.path / "train.log"
        self.predictions = self.path / "predictions.jsonl"
        self.result = self.path / "result.json"

    def claim(self, config: DistillConfig) -> None:
        """Make the folder this config's, or raise InputError where it holds another trial."""
        self.check(config)
        self.path.mkdir(parents=True, exist_ok=True)
        self.sweep()
        write_text(self.config, json.dumps(config.to_dict(), indent=2) + "\n")

    def check(self, config: DistillConfig) -> None:
        """Raise InputError where the folder holds a trial whose numbers mean something else."""
        theirs = self.read_config()
        if theirs and hash_of(theirs) != config.hash():
            before, ours = meaning(theirs), meaning(config.to_dict())
            changed = sorted(n for n in {*before, *ours} if before.get(n) != ours.get(n))
            raise InputError(
                f"--output_dir {self.path} holds a trial with other settings ({', '.join(changed)}): "
                "choose another folder, or delete this one."
            )

    def read_config(self) -> dict[str, Any]:
        """config.json; empty where there is none. Raises CorruptFile where it cannot be read."""
        try:
            return read_object(self.config, way_out="choose another folder, or delete this one")
        except FileNotFoundError:
            return {}

    def config_of(self, config_hash: str) -> dict[str, Any]:
        """config.json, empty where there is none. Raises CorruptFile where it means another trial."""
        config = self.read_config()
        if config and hash_of(config) != config_hash:
            raise CorruptFile(self.config, f"is of configuration {hash_of(config)!r}, not {config_hash!r}")
        return config

    def sweep(self) -> None:
        """Delete what a killed process left half written."""
        for path in self.path.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path)
        for path in self.path.glob("*.part"):
            path.unlink()

    @contextmanager
    def new_checkpoint(self, step: int, size: int) -> Iterator[Path]:
        """A folder to write a checkpoint of about `size` bytes into; sealed and in its place afterwards.

        Whatever goes wrong, an earlier checkpoint stays as it is and nothing half written is left. Raises
        StorageFull where it would not fit.
        """
        if shutil.disk_usage(self.path).free < size:
            raise StorageFull(f"checkpoint-{step} does not fit into what is free in {self.path}", size)
        made = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.path))
        target = self.checkpoint(step)
        try:
            yield made
            write_text(made / RECORD, json.dumps(self._rows_so_far()) + "\n")
            write_manifest(made)
            if target.exists():
                shutil.rmtree(target)
            made.rename(target)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        _sync(self.path)

    def checkpoint(self, step: int) -> Path:
        return self.path / f"checkpoint-{step}"

    def checkpoints(self) -> list[Path]:
        """All checkpoints by step, newest first, intact or not."""
        found = (p for p in self.path.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit())
        return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True)

    def newest_checkpoint(self) -> str | None:
        """The newest checkpoint to go on from: neither its files nor the rows up to it have changed since."""
        usable = (path for path in self.checkpoints() if is_intact(path) and self._continues(path))
        return next(map(str, usable), None)

    def _rows_so_far(self) -> dict[str, Any]:
        data = content(self.metrics, LARGE) if self.metrics.exists() else b""
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _continues(self, checkpoint: Path) -> bool:
        """Whether metrics.jsonl begins with the rows it had then; checkpoints of version 0.1 do not tell."""
        try:
            told = read_object(checkpoint / RECORD)
        except FileNotFoundError:
            return True
        data = b""
        if self.metrics.exists():
            with opened(self.metrics) as file:
                data = file.read(told["bytes"])
        return hashlib.sha256(data).hexdigest() == told["sha256"]

    def drop_checkpoints_after(self, step: int) -> None:
        """Drop what a trial resumed at `step` writes again; damaged ones would take an intact one's place."""
        for path in self.checkpoints():
            if int(path.name.removeprefix("checkpoint-")) > step:
                shutil.rmtree(path)

    def keep_checkpoints(self, limit: int) -> None:
        for path in self.checkpoints()[limit:]:
            shutil.rmtree(path)

    def read_metrics(self) -> Iterator[Row]:
        """The rows of metrics.jsonl; a torn last line is left out. Raises CorruptFile for any other."""
        return read_lines(self.metrics, ROW)

    def read_items(self) -> Iterator[Item]:
        """The rows of predictions.jsonl, as read_metrics reads."""
        return read_lines(self.predictions, ITEM)

    def read_last_row(self) -> Row | None:
        """The newest row of metrics.jsonl, from its last few kilobytes; None if there is none."""
        try:
            with opened(self.metrics) as file:
                file.seek(-min(TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
                lines = file.read().split(b"\n")
        except (OSError, CorruptFile):
            return None
        for line in reversed(lines):
            with suppress(ValidationError):
                return ROW.validate_json(line)
        return None

    def cut_metrics(self, step: int, last: int) -> None:
        """Drop what a trial resumed at `step` writes again: rows beyond it, and step `last`'s evaluation.

        The last checkpoint is written before the last evaluation, every other one after its step's.
        """
        kept = self.read_metrics() if step else iter(())  # from the start whatever stands there goes
        rows = [r for r in kept if r["step"] <= step and (r["step"], r["split"]) != (last, "eval")]
        write_text(self.metrics, "".join(_line(row) for row in rows))

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        with self.metrics.open("a") as file:
            file.write(_line(row))

    def write_predictions(self, rows: Iterable[Mapping[str, Any]]) -> None:
        write_text(self.predictions, "".join(json.dumps(row) + "\n" for row in rows))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json over a record that is on the disk, and seal both."""
        plain = _strict(result)
        there = [path for path in self._sealed() if path.exists()]
        for path in there:
            _sync(path)
        sums = {path.name: sum_of(path) for path in there}
        sealed = {**plain, "record": {**sums, self.result.name: {"sha256": digest(plain)}}}
        write_text(self.result, json.dumps(sealed, indent=2, allow_nan=False) + "\n")

    def read_result(self, config_hash: str) -> dict[str, Any] | None:
        """The result of the trial without its seal, or None where it has not ended.

        Raises CorruptFile for the first file of the record that is not as it was written, or of another
        configuration. Version 0.1 sealed nothing: of its trials only the last row must be there and whole.
        """
        try:
            result = read_object(self.result, RESULT)
        except FileNotFoundError:
            return None
        if result["config_hash"] != config_hash:
            told = result["config_hash"]
            raise CorruptFile(self.result, f"is of configuration {told!r}, not {config_hash!r}")
        if not self.config_of(config_hash):
            raise CorruptFile(self.config, "is gone, and the trial has a result")
        sums = result.pop("record", None)
        if sums is None:
            refuse_open(self.metrics)
            return result
        if sums.get(self.result.name, {}).get("sha256") != digest(result):
            raise CorruptFile(self.result, "is not as the trial wrote it (SHA-256)")
        for path in self._sealed():
            refuse_changed(path, sums.get(path.name))
        return result

    def _sealed(self) -> tuple[Path, Path]:
        """The files that a result rests on."""
        return self.metrics, self.predictions


def set_aside(path: Path) -> Path:
    """Move a corrupt file or folder out of the way, so that it is made afresh; where it lies then."""
    path, number = path.absolute(), 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    return path.rename(aside)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, on the disk when this returns."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)  # where storage is full its bytes are wanted elsewhere
        raise
    _sync(path.parent)


def write_manifest(folder: Path) -> None:
    """Seal a checkpoint: the SHA-256 of every file in it, each of them on the disk."""
    paths = sorted(folder.iterdir())
    for path in paths:
        _sync(path)
    write_text(folder / MANIFEST, json.dumps({path.name: sha256_of(path) for path in paths}, indent=2) + "\n")


def is_intact(folder: Path) -> bool:
    """Whether a checkpoint was written to the end and no byte has changed since."""
    try:
        sums = read_object(folder / MANIFEST)
        return bool(sums) and all(sha256_of(folder / name) == digest for name, digest in sums.items())
    except (OSError, CorruptFile):
        return False


def _sync(path: Path) -> None:
    """See a file's bytes, or a folder's names, on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sha256_of(path: Path) -> str:
    """Of the file's bytes, in hex digits."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(row: Mapping[str, Any]) -> str:
    named = {name: value if math.isfinite(value) else _name(value) for name, value in row["metrics"].items()}
    return json.dumps({**row, "metrics": named}, allow_nan=False) + "\n"


def _name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _strict(inner) for name, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
