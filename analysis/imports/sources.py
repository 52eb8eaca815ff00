"""The programs whose records are read, by the name that `kvtune report --from` knows them by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from analysis.imports.event_files import read_tensorboard
from analysis.imports.mapping import Mapped
from analysis.imports.ray_tune import read_ray
from analysis.imports.sheets import read_sheets
from analysis.imports.table import Table, joined
from analysis.imports.trainer_state import read_trainer
from analysis.imports.wandb import read_wandb
from analysis.plan import ResultsError

SOURCES: dict[str, Callable[[Path, Mapped], Iterator[Table]]] = {
    "csv": read_sheets,
    "parquet": read_sheets,
    "lightning": read_sheets,
    "huggingface": read_trainer,
    "tensorboard": read_tensorboard,
    "wandb-export": read_wandb,
    "ray": read_ray,
}


def read_source(kind: str, paths: Sequence[Path], meaning: Mapped) -> Table:
    """All files of one kind in one table; ResultsError names the file that cannot be read."""
    for path in paths:
        if not path.exists():
            raise ResultsError(f"--from {kind}: {path} is not there: name files or folders that are.")
    tables = [table for path in paths for table in SOURCES[kind](path, meaning)]
    if not tables:
        raise ResultsError(f"--from {kind}: {', '.join(map(str, paths))} holds no run.")
    return joined(tables)
