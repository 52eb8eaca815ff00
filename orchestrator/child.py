"""One trial in a fresh process: no state leaks in, a crash stays inside, the start costs no import.

A forkserver imports torch and the trainables once per worker; every trial is a fork of that clean image. The
same code runs trials under Ray and without it, so both give the same bits.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from analysis.processes import bare_main
from analysis.sizes import size
from orchestrator import fence, sockets, space
from orchestrator.attempts import Outcome
from orchestrator.trackers import Tracker
from orchestrator.watch import Watch, kernel_oom_kills
from trainables.json_files import CorruptFile

OUTPUT = "output.log"
"""What the trial's process printed, and where it was when it died."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
LINGER_S = 10.0
"""Seconds that a child is given to leave once its trial is over."""
FENCE_S = 60.0
"""Seconds that a child waits for an earlier process of its trial, which its worker ends within seconds."""
PR_SET_PDEATHSIG, ALIVE = 1, "_forkserver_alive_fd"
Row = dict[str, Any]


DISTILL = "trainables.distill:distill"
"""Our own trials; whatever else an objective names asks for no teacher."""


@dataclass(frozen=True)
class Objective:
    """What a trial runs, by import path, so that a child process on any node finds it again."""

    distill: str = DISTILL
    """distill(config, report, resume_from=None) -> result"""
    check: str = "trainables.preflight:check"
    """check(config) -> sentences to tell or None, before anything is started"""
    prepare: str = "trainables.preflight:prepare"
    """prepare(config, progress), once, by the launch itself"""
    weigh: str = "trainables.weight:checkpoint_bytes"
    """weigh(config): bytes that one checkpoint takes at least"""
    preload: tuple[str, ...] = (
        "torch",
        "transformers",
        "transformers.models.llama.modeling_llama",
        "transformers.models.gpt2.modeling_gpt2",
        "trainables.distill",
    )
    """Modules that the forkserver imports once."""


@dataclass(frozen=True)
class Job:
    """A trial as a worker is given it: plain values only."""

    trial_id: str
    arm: str
    seed: int
    config_hash: str
    config: Mapping[str, Any]
    """DistillConfig.to_dict() with the trial's folder and threads."""
    folder: str
    cpus: int
    gpus: float
    memory_gib: float | None
    time_limit_s: float | None
    attempts_allowed: int
    """Attempts in this launch: one, and the failures that are forgiven."""
    attempts_before: int
    """Attempts of earlier launches, which count for nothing here."""
    experiment: str
    """Its name: what trackers group trials by."""
    trackers: tuple[Tracker, ...] = ()
    builtin: str | None = None
    """A folder on the storage with the built-in teacher trained for this run; else the machine's own."""
    code_rev: str | None = None
    objective: Objective = field(default_factory=Objective)

    def to_json(self) -> str:
        """As Tune carries it: a text is not copied with every table and result that holds it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        values = json.loads(text)
        objective, trackers = values.pop("objective"), values.pop("trackers")
        preload = tuple(objective.pop("preload"))
        return cls(**values, trackers=tuple(trackers), objective=Objective(**objective, preload=preload))


def run_in_child(
    job: Job, on_row: Callable[[Row], None], wanted: Callable[[], bool] = lambda: True
) -> Outcome:
    """Run the trial in a fresh process, hand its metric rows to `on_row`, and say how it ended.

    The process is ended where it passes its limits, or where the attempt is no longer `wanted`.
    """
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    oom_kills = kernel_oom_kills()
    environment = environment_of(job)
    sockets.shorten_python()
    with _clean_start(environment):
        context.set_forkserver_preload(list(job.objective.preload))
        process = context.Process(target=_child, args=(job, environment, sender), name=job.trial_id)
        process.start()
    sender.close()  # the child's copy is now the only one, so its death is the end of the pipe
    watch = Watch(time_limit_s=job.time_limit_s, memory_gib=job.memory_gib, wanted=wanted)
    outcome = None
    try:
        for message in _messages(receiver, process, watch):
            if isinstance(message, Outcome):
                outcome = message
            else:
                on_row(message)
        process.join(timeout=LINGER_S)
    finally:
        if process.is_alive():
            process.kill()
            process.join(timeout=LINGER_S)  # one that the kernel cannot end still holds its folder's lock
        receiver.close()
    return outcome or _death(process.exitcode, kernel_oom_kills() > oom_kills)


def resolve(path: str) -> Callable[..., Any]:
    """The function that an import path such as trainables.distill:distill names."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _messages(receiver: Connection, process: BaseProcess, watch: Watch) -> Iterator[Any]:
    """What the child sends until it ends, or how the watch ends it; a grandchild may hold the pipe longer."""
    assert process.pid is not None
    while True:
        ready = wait([receiver, process.sentinel], timeout=watch.every_s)
        if receiver in ready:
            try:
                yield receiver.recv()
            except EOFError:
                return
        elif process.sentinel in ready:
            return
        if (verdict := watch.verdict(process.pid)) is not None:
            process.kill()
            yield verdict
            return


def _death(exitcode: int | None, kernel_out_of_memory: bool) -> Outcome:
    """The outcome of a child that ended without saying so."""
    code = exitcode if exitcode is not None else 0
    if code >= 0:
        return Outcome(
            "crashed", f"its process ended with exit code {code} before the trial was over", retry=True
        )
    if -code == signal.SIGKILL and kernel_out_of_memory:
        return Outcome("oom", "the kernel ended its process: memory had run out", retry=True)
    return Outcome("crashed", f"its process was killed by {signal_name(-code)}", retry=True)


def signal_name(number: int) -> str:
    """SIGKILL and so on; a number where it has no name, as those of real time."""
    return signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"


def environment_of(job: Job) -> dict[str, str | None]:
    """Variables as the trial's process shall find them; None where one is not to be set at all.

    As many threads as the trial has CPUs. Of the GPUs it sees those that this worker was given, and none if
    it was given none.
    """
    devices = os.environ.get("CUDA_VISIBLE_DEVICES") if job.gpus else ""
    threads = {name: str(job.cpus) for name in THREAD_VARIABLES}
    return {**threads, "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": devices}


def _set_environment(wanted: Mapping[str, str | None]) -> None:
    for name, value in wanted.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _clean_start(environment: Mapping[str, str | None]) -> Iterator[None]:
    """Environment and __main__ as a forkserver shall find them, put back afterwards.

    Threads must be set before torch loads there. multiprocessing would import the parent's script again in
    every child (Ray's worker, the kvtune command): a bare __main__ spares each trial that second.
    """
    before = {name: os.environ.get(name) for name in environment}
    mask = signal.pthread_sigmask(
        signal.SIG_BLOCK, [signal.SIGINT]
    )  # or a forkserver that loads would say it
    _set_environment(environment)
    try:
        with bare_main():
            yield
    finally:
        _set_environment(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _child(job: Job, environment: Mapping[str, str | None], sender: Connection) -> None:
    """The child's main function: run the trial, report its rows, say how it ended."""
    _set_environment(environment)  # an older forkserver has that of its first trial
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    _end_with_forkserver()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _be_first_to_go()
    try:
        os.chdir(job.folder)
        outcome = _run_alone(job, lambda row: sender.send(_plain(row)))
    except BaseException as error:
        with suppress(OSError):  # on a full storage not even this
            traceback.print_exc()
        outcome = _explain(error)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    sender.send(outcome)
    sender.close()


def _run_alone(job: Job, report: Callable[[Row], None]) -> Outcome:
    """Run the trial once no other process writes into its folder; what it prints goes into its output.log."""
    lock = fence.hold(Path(OUTPUT), FENCE_S)
    if lock is None:
        return Outcome(
            "crashed", f"an earlier process of the trial still held its folder after {FENCE_S:g} s", True
        )
    output = os.open(OUTPUT, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    return _run(job, report)


def _run(job: Job, report: Callable[[Row], None]) -> Outcome:
    from trainables.config import DistillConfig
    from trainables.trial_folder import TrialFolder

    with suppress(CorruptFile):
        if (done := TrialFolder(job.folder).read_result(job.config_hash)) is not None:
            return Outcome(done["status"], done.get("failure_reason"))  # by who held the folder until now
    if job.builtin is not None:
        os.environ["KVTUNE_CACHE"] = job.builtin
    config = DistillConfig.from_dict(job.config)
    distill = resolve(job.objective.distill)
    result = distill(config, report, resume_from=TrialFolder(job.folder).newest_checkpoint())
    return Outcome(result["status"], result.get("failure_reason"))


def _explain(error: BaseException) -> Outcome:
    """A crash in one sentence; what the user can mend is not tried again."""
    from trainables.config import InputError

    text = " ".join(str(error).split())[:500]
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"{type(error).__name__}: {text} ({os.path.basename(last.filename)}:{last.lineno})"
    if space.is_full(error):
        needed = getattr(error, "needed", space.FLOOR)
        text = f"the storage is full: {reason}; it needs {size(needed)}"
        return Outcome("crashed", text, retry=True, needs_bytes=needed)
    if _is_memory(error):
        return Outcome("oom", reason, retry=True)
    return Outcome("crashed", reason, retry=not isinstance(error, InputError))


def _is_memory(error: BaseException) -> bool:
    """Python's, CUDA's, the kernel's and torch's ways of saying that memory has run out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _be_first_to_go() -> None:
    """Where memory runs out let the kernel end the trial, not the worker or the driver around it."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _end_with_forkserver() -> None:
    """Have the kernel end this process with its forkserver, and so with its worker, even where it hangs.

    The forkserver lives as long as anyone holds the far end of its pipe, and its children are handed one, to
    start processes themselves: with it this one would keep alive the forkserver that is to end it.
    """
    held = getattr(forkserver._forkserver, ALIVE, None)
    if held is not None:
        os.close(held)
        setattr(forkserver._forkserver, ALIVE, None)
    end_with_parent()


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end_with_parent() -> None:
    """End this process when its worker dies, so that no orphan writes beside the trial's next attempt."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _plain(row: Mapping[str, Any]) -> Row:
    """The row with every metric as a Python float; NaN and infinities stay what they are."""
    return {**row, "metrics": {name: float(value) for name, value in row["metrics"].items()}}
