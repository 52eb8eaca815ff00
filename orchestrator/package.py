"""What a job takes along: this code, the experiment, and the local files that the experiment names."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from analysis.sizes import size
from orchestrator.provenance import ROOMS, SOURCE
from orchestrator.spec import ExperimentSpec, spec_from
from orchestrator.trials import PATHS
from trainables.config import DIGESTS, InputError
from trainables.trial_folder import sha256_of

INPUTS = "inputs"
"""The folder of the package that holds the experiment's own files, each under the hash of its content."""
SHARED_INPUTS = ".inputs"
"""Where the job puts them on the storage, so that every node and every later job finds them."""
EXPERIMENT = "experiment.yaml"
LIMIT = 100 * 2**20
"""Bytes in a package. Ray keeps it in the head's memory; more belongs on the shared storage."""
NEVER = ("__pycache__", "*.pyc", ".*")
"""Left out wherever it lies: caches, and hidden files, which is where tokens and keys live."""
DATA_FILES = (".jsonl", ".json", ".txt")


@dataclass(frozen=True)
class Package:
    """A folder ready to be sent, and the experiment in it as the cluster will read it."""

    folder: Path
    spec: ExperimentSpec
    """Local files named by where the job puts them on the storage."""
    bytes: int


def pack(spec: ExperimentSpec, storage: PurePosixPath, folder: Path) -> Package:
    """Lay the package out in `folder`. Raises InputError for a missing file, or a package too large."""
    found: dict[str, Path] = {}

    def sent(path: Path) -> str:
        inside = f"{_content_hash(path)}/{path.name}"
        found[inside] = path
        return str(storage / SHARED_INPUTS / inside)

    packed = _relocated(spec, storage, sent)
    sources = [*found.values(), *(SOURCE / room for room in ROOMS)]
    sizes = {path: path.stat().st_size for source in sources for path in _files(source)}
    _refuse_large(sizes)
    pack_code(folder)
    for inside, path in found.items():
        _copy(path, folder / INPUTS / inside)
    (folder / EXPERIMENT).write_text(packed.to_yaml(), encoding="utf-8")
    return Package(folder=folder, spec=packed, bytes=sum(sizes.values()))


def pack_code(folder: Path) -> None:
    """This package's own source, from a checkout or as it is installed."""
    for room in ROOMS:
        _copy(SOURCE / room, folder / room)


def unpack_inputs(package: Path, storage: Path) -> None:
    """On the cluster: put the package's own files on the storage, each whole or not at all."""
    for source in sorted((package / INPUTS).glob("*/*")):
        target = storage / SHARED_INPUTS / source.parent.name / source.name
        if target.exists():
            continue  # the folder's name is the hash of its content, so it is the same
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, part)
        try:
            part.rename(target)
        except OSError:  # another job was faster with the same content
            shutil.rmtree(part, ignore_errors=True)


def _relocated(spec: ExperimentSpec, storage: PurePosixPath, sent: Callable[[Path], str]) -> ExperimentSpec:
    """The experiment with every local path replaced by the path that it will have on the storage."""

    def moved(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
        placed = {name: place(f"{section}.{name}", name, value) for name, value in values.items()}
        return {**_digests(values, placed), **placed}

    def place(where: str, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [place(where, name, item) for item in value]
        if name not in PATHS or not isinstance(value, str):
            return value
        return _placed(where, value, storage, sent)

    values = spec.model_dump(mode="json")
    values["base"] = moved("base", values["base"])
    values["arms"] = {arm: moved(f"arms.{arm}", given) for arm, given in values["arms"].items()}
    values["grid"] = moved("grid", values["grid"])
    return spec_from(values, spec.name)


def _digests(values: Mapping[str, Any], placed: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of the files that move, so that here and on the cluster the plan is the same."""
    return {
        digest: sha256_of(Path(values[file]).expanduser())
        for file, digest in DIGESTS.items()
        if isinstance(values.get(file), str) and placed[file] != values[file]
    }


def _placed(where: str, value: str, storage: PurePosixPath, sent: Callable[[Path], str]) -> str:
    """A hub name or a path of the cluster as it is; a file or folder of this machine where it will be."""
    path = Path(os.path.abspath(Path(value).expanduser()))
    if path.exists():
        return str(path) if path.is_relative_to(storage) else sent(path)
    if not value.startswith("/") and path.suffix in DATA_FILES:
        raise InputError(
            f"{where}: {value} is not here, so it cannot be sent: name a file of this machine, "
            "or one that the cluster has by its absolute path there."
        )
    return value


def _refuse_large(sizes: Mapping[Path, int]) -> None:
    total = sum(sizes.values())
    if total <= LIMIT:
        return
    largest = sorted(sizes, key=lambda path: sizes[path], reverse=True)[:3]
    named = ", ".join(f"{path} ({size(sizes[path])})" for path in largest)
    raise InputError(
        f"the package would be {size(total)}, at most {size(LIMIT)} are sent; the largest "
        f"files: {named}. Copy them to the storage that all nodes share, and name them by their path there."
    )


def _content_hash(path: Path) -> str:
    """Twelve hex digits over names and contents, the same on every machine."""
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:12]


def _files(source: Path) -> Iterator[Path]:
    """The files of a file or folder that may be sent, in one order everywhere."""
    if source.is_file():
        yield source
        return
    ignore = shutil.ignore_patterns(*NEVER)
    for place, folders, names in os.walk(source):
        skipped = ignore(place, [*folders, *names])
        folders[:] = sorted(set(folders) - skipped)
        yield from (Path(place, name) for name in sorted(set(names) - skipped))


def _copy(source: Path, target: Path) -> None:
    for file in _files(source):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
