"""A trial's folder is its record: this file owns the name and form of everything in it.

config.json, metrics.jsonl, train.log, checkpoint-N/, predictions.jsonl, result.json (last, atomically).
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainables.config import DistillConfig, InputError, meaning

MANIFEST = "manifest.json"
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
        if self.config.is_file():
            theirs = DistillConfig.from_dict(json.loads(self.config.read_text()))
            if theirs.hash() != config.hash():
                ours = meaning(config.to_dict())
                changed = [n for n, v in meaning(theirs.to_dict()).items() if v != ours.get(n)]
                raise InputError(
                    f"--output_dir {self.path} holds a trial with other settings ({', '.join(changed)}): "
                    "choose another folder, or delete this one."
                )

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
        """The newest checkpoint whose every file is as it was written; torn or damaged ones do not count."""
        return next((str(path) for path in self.checkpoints() if is_intact(path)), None)

    def drop_checkpoints_after(self, step: int) -> None:
        """Drop what a trial resumed at `step` writes again; damaged ones would take an intact one's place."""
        for path in self.checkpoints():
            if int(path.name.removeprefix("checkpoint-")) > step:
                shutil.rmtree(path)

    def keep_checkpoints(self, limit: int) -> None:
        for path in self.checkpoints()[limit:]:
            shutil.rmtree(path)

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """The rows of metrics.jsonl, numbers as floats; a torn last line is left out."""
        if not self.metrics.is_file():
            return
        for line in self.metrics.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                return
            row["metrics"] = {name: float(value) for name, value in row["metrics"].items()}
            yield row

    def cut_metrics(self, step: int, last: int) -> None:
        """Drop what a trial resumed at `step` writes again: rows beyond it, and step `last`'s evaluation.

        The last checkpoint is written before the last evaluation, every other one after its step's.
        """
        rows = [
            row
            for row in self.read_metrics()
            if row["step"] <= step and (row["step"], row["split"]) != (last, "eval")
        ]
        write_text(self.metrics, "".join(_line(row) for row in rows))

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        with self.metrics.open("a") as file:
            file.write(_line(row))

    def write_predictions(self, rows: Iterable[Mapping[str, Any]]) -> None:
        write_text(self.predictions, "".join(json.dumps(row) + "\n" for row in rows))

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_text(self.result, json.dumps(_strict(result), indent=2, allow_nan=False) + "\n")

    def read_result(self) -> dict[str, Any] | None:
        """The result, or None where the trial has not ended."""
        if not self.result.is_file():
            return None
        result: dict[str, Any] = json.loads(self.result.read_text())
        return result


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
        sums = json.loads((folder / MANIFEST).read_text())
        return bool(sums) and all(sha256_of(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, AttributeError):
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
    with path.open("rb") as file:
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
