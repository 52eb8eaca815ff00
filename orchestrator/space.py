"""Room on the storage: a trial waits for it rather than fail on a full disk, trial after trial."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from analysis.sizes import size

FLOOR = 2**20
"""Bytes that a trial's small files need, with room to spare."""
PATIENCE_S = 600.0
"""Seconds that a trial waits for room before it gives up; the same command tries it again."""
POLL_S = 1.0
MARK = ".waits-for-"
"""How the name of an empty file begins in the folder of a trial that waits for room; the bytes follow. It can
be made where no byte can be written."""
STALE_S = 20.0
"""Seconds after which a mark that nobody renews is a dead worker's."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Whether an error says that storage, or the user's share of it, has no room left."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return type(error).__name__ == "SafetensorError" and any(
        f"os error {code})" in str(error) for code in FULL
    )


def existing(path: Path) -> Path:
    """The path, or the folder above it that is there already."""
    return next(place for place in (path, *path.parents) if place.exists())


def free_at(path: Path) -> int:
    """Bytes that are free where the path is or will be."""
    return shutil.disk_usage(existing(path)).free


def wait_for(folder: Path, needed: int, shown: int = 0) -> str | None:
    """Wait until `needed` bytes are free for a trial's folder; else one sentence on what lacks.

    While it waits the folder tells so, and how much the trial needs: `shown`, where that is more.
    """
    if free_at(folder) >= needed:
        return None
    deadline, mark = time.monotonic() + PATIENCE_S, folder / f"{MARK}{max(needed, shown)}"
    try:
        while (free := free_at(folder)) < needed:
            if time.monotonic() >= deadline:
                return (
                    f"the storage is full: {size(free)} are free, the trial needs {size(needed)}, "
                    f"and waiting {PATIENCE_S:g} s brought no more"
                )
            with suppress(OSError):  # where not even a name fits, it waits unseen
                folder.mkdir(parents=True, exist_ok=True)
                mark.touch()
            time.sleep(POLL_S)
    finally:
        with suppress(OSError):
            mark.unlink(missing_ok=True)
    return None


def waits_for(folder: Path) -> int | None:
    """Bytes that the trial in this folder waits for; None where it does not wait, or its worker has died."""
    return max(_marks(folder), default=None)


def forget(folder: Path) -> None:
    """Delete what a dead worker left in a trial's folder of its waiting."""
    for mark in folder.glob(f"{MARK}*"):
        mark.unlink(missing_ok=True)


def _marks(folder: Path) -> Iterator[int]:
    try:
        for mark in folder.glob(f"{MARK}*"):
            if time.time() - mark.stat().st_mtime < STALE_S:
                yield int(mark.name.removeprefix(MARK))
    except (OSError, ValueError):
        return
