"""Who may write a trial's folder: one process at a time.

A node cut off by its network, or a worker whose driver was killed, can live on beside the trial's next
attempt. The kernel's lock keeps that attempt waiting until the old process is gone; the old one's worker,
which looks into attempts.jsonl, ends it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

POLL_S = 0.1
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system answers that has no locks: there the look into attempts.jsonl must do."""


def hold(path: Path, seconds: float) -> int | None:
    """Lock a file until this process ends or closes the number returned; None if another keeps it longer."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(number)
                return None
            time.sleep(POLL_S)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(number)
                raise
            return number


def wait_until_free(path: Path, seconds: float) -> bool:
    """Whether no process holds the file, or comes to let it go in this time."""
    if not path.exists():
        return True
    number = hold(path, seconds)
    if number is None:
        return False
    os.close(number)
    return True
