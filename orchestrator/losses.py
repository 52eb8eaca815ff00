"""Workers and nodes that vanish: nobody there can write how the attempt ended, so the driver does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import Callback

from orchestrator import attempts
from orchestrator.attempts import NO_WORD, Status
from orchestrator.child import Job
from orchestrator.shared import UNSEEN

PREEMPTED = "node was preempted"
PRESSURE = ("memory pressure", "running low on memory", "OutOfMemory")
"""Ray's words where a worker ended with its preempted node, or by Ray's memory monitor."""
log = logging.getLogger(__name__)


class Losses(Callback):
    """Ends the attempt of a trial whose worker is gone before Tune starts the next, and so fences it off."""

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note(trial)

    def _note(self, trial: Any) -> None:
        """Never raises: an error in a callback would end the whole run."""
        try:
            folder = Path(Job.from_json(trial.config["job"]).folder)
            known, said = attempts.read(folder), _error_of(trial)
            if known and known[-1].status is None:
                status, reason = _why(said, known[-1].node)
                attempts.end(folder, known[-1].number, status, reason)
            elif unseen := UNSEEN.search(said):  # nothing could be written there
                folder.mkdir(exist_ok=True)
                attempts.end(folder, attempts.start(folder, None), "preempted", unseen[0])
        except Exception:
            log.exception("how the attempt of %s ended could not be recorded", trial)


@contextmanager
def outlived() -> Iterator[None]:
    """Have Tune take a worker that Ray's memory monitor ended for one that died.

    The error that Ray raises for it is neither of those that Tune awaits, and would end the whole run. The
    place is private to Ray (checked with 2.60): where a later one has it elsewhere, Tune is left as it is.
    """
    try:
        from ray.air.execution._internal.actor_manager import RayActorManager
    except ImportError:
        log.warning("a worker that Ray's memory monitor ends will end the run with this version of Ray")
        yield
        return
    handle = RayActorManager._actor_task_failed

    def as_died(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if type(exception) is OutOfMemoryError:
            exception = RayActorError(error_msg=str(exception))
        handle(manager, tracked_actor_task=tracked_actor_task, exception=exception)

    RayActorManager._actor_task_failed = as_died
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = handle


def _error_of(trial: Any) -> str:
    """Tune's words for the trial's last failure, which it has just written on this machine."""
    try:
        told = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        return ""
    return " ".join(told.rpartition("Failure # ")[2].split())


def _why(said: str, node: str | None) -> tuple[Status, str]:
    told = f": {said[:300]}" if said else ""
    if PREEMPTED in said or (node is not None and node in _leaving()):
        return "preempted", f"its node was taken away{told}"
    if any(word in said for word in PRESSURE):
        return "oom", f"Ray ended its worker, for memory was running out{told}"
    return "crashed", f"{NO_WORD}{told}"


def _leaving() -> set[str]:
    """Nodes that Ray was told will go away. Of a lost node Ray may not yet know why when its trial fails."""
    from ray._private.state import state

    return set(state.get_draining_nodes())
