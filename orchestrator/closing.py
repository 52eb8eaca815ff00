"""The end of a launch, however it comes: signals noted, every attempt closed, nobody left who writes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator import attempts, fence
from orchestrator.child import OUTPUT, Job

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what schedulers send, and a closed terminal."""
TERMINATED = (signal.SIGTERM.name, "exit code 255 ")
"""In the reason of an attempt: what ended it was the end of the run. multiprocessing tells 255 of a child
whose forkserver was ended first."""
INSISTED = 2
"""Further signals that end even the closing of the records."""
AGAIN_S = 5.0
"""Seconds after which a run that has not noticed its end is told again."""
LEAVE_S = 15.0
"""Seconds that the processes of an ended run are given to leave, all together."""


class Ending:
    """Whether the user has ended the run, and whether the run knows it yet."""

    def __init__(self) -> None:
        self._signals = 0
        self._ended = self._closing = False

    def __bool__(self) -> bool:
        return self._ended

    def arrived(self) -> None:
        """The run has stopped because the user ended it, and closes its records."""
        self._ended = True
        self.closing()

    def closing(self) -> None:
        """The run closes its records: from now on only who insists can interrupt it."""
        self._closing = True
        self._signals = 0
        signal.setitimer(signal.ITIMER_REAL, 0)

    def interrupt(self, number: int, frame: object) -> None:
        """Raise KeyboardInterrupt, and again until it arrives: where nobody can catch it, it is lost."""
        if number != signal.SIGALRM:
            self._ended = True
            self._signals += 1
        if self._closing and self._signals < INSISTED:
            return
        if not self._closing:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise KeyboardInterrupt


@contextmanager
def noting_signals() -> Iterator[Ending]:
    """End as cleanly on a scheduler's SIGTERM as on Ctrl-C: a KeyboardInterrupt, and noted.

    Once it has arrived, further signals let the records be closed, until the user insists. What the user has
    the process ignore (nohup) stays ignored.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    heard = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ending.interrupt) for number in (*heard, signal.SIGALRM)}
    try:
        yield ending
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def cancel(jobs: Sequence[Job]) -> None:
    """Tell the workers, before anything is ended, that no attempt is wanted any more.

    A worker that outlives its trial's process by a moment would take that for a crash, and start it again.
    """
    for job in jobs:
        with suppress(OSError):  # close() tells what could not be written
            _close(Path(job.folder), interrupted=True)


def close(jobs: Sequence[Job], *, interrupted: bool) -> None:
    """Give every attempt an end, and wait until nobody writes into its folder.

    What was under way when the user ended the run was cancelled, as was what their SIGTERM reached first. A
    process that lives on, on a node that lost sight of us, is ended by its worker once it finds its attempt
    ended.
    """
    folders = [Path(job.folder) for job in jobs]
    still_open = [folder for folder in folders if _close(folder, interrupted)]
    deadline = time.monotonic() + LEAVE_S
    for folder in folders if interrupted else still_open:
        fence.wait_until_free(folder / OUTPUT, max(0.0, deadline - time.monotonic()))


def _close(folder: Path, interrupted: bool) -> bool:
    """Whether the trial's last attempt had no end until now."""
    if not (known := attempts.read(folder)):
        return False
    last = known[-1]
    terminated = last.status == "crashed" and any(word in (last.reason or "") for word in TERMINATED)
    if interrupted and (last.status is None or terminated):
        attempts.end(folder, last.number, "cancelled", "the run was ended")
    elif last.status is None:
        attempts.end(folder, last.number, "crashed", attempts.NO_WORD)
    return last.status is None
