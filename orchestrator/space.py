"""Room on the storage: a trial waits for it rather than fail on a full disk, trial after trial."""

from __future__ import annotations

import errno
import shutil
import time
from pathlib import Path

FLOOR = 2**20
"""Bytes that a trial's small files need, with room to spare."""
PATIENCE_S = 600.0
"""Seconds that a trial waits for room before it gives up; the same command tries it again."""
POLL_S = 1.0
FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Whether an error says that storage, or the user's share of it, has no room left."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return type(error).__name__ == "SafetensorError" and any(
        f"os error {code})" in str(error) for code in FULL
    )


def wait_for(folder: Path, needed: int) -> str | None:
    """Wait until `needed` bytes are free where the folder is or will be; else one sentence on what lacks."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    deadline = time.monotonic() + PATIENCE_S
    while (free := shutil.disk_usage(place).free) < needed:
        if time.monotonic() >= deadline:
            return (
                f"the storage is full: {free:,} bytes are free, the trial needs {needed:,}, "
                f"and waiting {PATIENCE_S:g} s brought no more"
            )
        time.sleep(POLL_S)
    return None
