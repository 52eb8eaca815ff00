"""What a command does where whoever reads its output has left, as `head` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

BROKEN_PIPE = 141
"""The exit code that a shell gives to what SIGPIPE ended."""


def until_unread(command: Callable[[], int]) -> int:
    """Run a command; its exit code, or 141 where its reader left before all was written.

    What could not be written is dropped: the interpreter would try once more when it exits, and end with 120.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before Python started
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    try:
        code = command()
    except BrokenPipeError:
        code = BROKEN_PIPE
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            if stream is sys.stdout and isinstance(error, BrokenPipeError):
                code = BROKEN_PIPE
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code
