"""Ray's driver, in a process of its own: whatever Ray does there, the launch lives on and closes its records.

Ray's C++ ends, hangs or aborts the process that it is loaded into, handles its signals and writes to its
terminal. So the launch only asks that process, and watches it; its output is kept for who wants to know.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import Any

from orchestrator.child import end_with_parent, signal_name
from orchestrator.closing import LEAVE_S, Ending
from orchestrator.spec import Resources
from orchestrator.tuning import LOCAL, connected, init
from trainables.config import InputError, one_line

VITAL = ("raylet", "gcs_server")
"""Processes of a Ray of our own without which nothing runs there any more, by Ray's names."""
GONE_S = 5.0
"""Seconds that Tune is given to return once one of them is gone."""
LINGER_S = 60.0
"""Seconds that Tune is given to return once every trial has its result."""
POLL_S = 0.5
LOOK_S = 2.0
"""Seconds between two looks at the node that a cluster's driver is connected to."""
CUT_OFF = 86
"""Exit code of a driver whose node is dead."""
KEPT = 2**16
"""Bytes of the driver's last output that are worth keeping."""
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from orchestrator.driver import main; main(int(sys.argv[1]))"
)
PROC = Path("/proc")
ENDED, STOPPED = ("", "Z", "X"), ("T", "t")
"""States of a process in /proc, the empty one where it is there no more."""
Tell = Callable[[str], None]


class Lost(RuntimeError):
    """Ray failed, or died; the text says in a few words what."""


class Driver:
    """The process that is connected to Ray, seen from the launch. Its session holds all that it started."""

    def __init__(self, address: str, resources: Resources, tell: Tell) -> None:
        running = _running()
        self._address, self._tell, self._own = address, tell, address == LOCAL and running is None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # read when the process has ended
        self._vital: dict[str, tuple[int, str | None]] = {}
        self._pipe, far = Pipe()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(far.fileno()), json.dumps([*map(str, sys.path)])],
                stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
                pass_fds=[far.fileno()], start_new_session=True,
            )  # fmt: skip
        script = getattr(sys.modules["__main__"], "__file__", None)
        self._send((sys.argv, script, address, resources, running))

    def connect(self) -> None:
        """Wait until the process is connected to Ray; InputError where it cannot be."""
        with reaching(self._address):
            own = self._answer(lambda: False)
        self._vital = {name: (pid, _born(pid)) for name, pid in own.items()} if PROC.is_dir() else {}

    def ask(
        self, function: Callable[..., Any], *arguments: Any, over: Callable[[], bool] = lambda: False
    ) -> Any:
        """What the function returns in the process that is connected to Ray.

        Raises its InputError; Lost where it raises anything else, where Ray or that process dies, and where
        it does not return although `over` says that its work is done.
        """
        self._send((function, arguments))
        return self._answer(over)

    def leave(self) -> None:
        """Leave Ray in good order, for at most LEAVE_S seconds; `end` does the rest."""
        self._send(None)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_S)

    def end(self) -> None:
        """End the process, and all that a Ray of our own consists of; a cluster is told that it is left."""
        if not (self._own and PROC.is_dir()) and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVE_S)
        self._process.kill()
        _end_session(self._process.pid)
        self._process.wait()

    def said(self) -> str:
        """The last that Ray and its driver printed."""
        self._output.seek(max(0, os.fstat(self._output.fileno()).st_size - KEPT))
        return self._output.read().decode(errors="replace")

    def close(self) -> None:
        """Give back what this process holds of it."""
        self._pipe.close()
        self._output.close()

    def _send(self, message: Any) -> None:
        with suppress(BrokenPipeError):  # the answer, which does not come, tells
            self._pipe.send(message)

    def _answer(self, over: Callable[[], bool]) -> Any:
        since = None
        while True:
            if self._pipe.poll(POLL_S):
                kind, value = self._receive()
                if kind == "said":
                    self._tell(value)
                elif kind == "raised":
                    raise value
                else:
                    return value
            elif (end := self._end(over)) is None:
                since = None
            elif time.monotonic() - (since := since or time.monotonic()) > end[1]:
                raise Lost(end[0])

    def _receive(self) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = self._pipe.recv()
        except (EOFError, OSError):
            raise Lost(self._death()) from None
        return message

    def _death(self) -> str:
        try:
            code = self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            return "the process that drives Ray left it and does not end"
        if code == CUT_OFF:
            return "the node on which Ray is driven from here died"
        how = f"exit code {code}" if code >= 0 else signal_name(-code)
        why = "" if self._own else ", as it does where the cluster's head is gone"
        return f"the process that drives Ray ended by itself ({how}){why}"

    def _end(self, over: Callable[[], bool]) -> tuple[str, float] | None:
        """Why no answer may come any more, and the seconds that it is given yet."""
        for name, (pid, born) in self._vital.items():
            if _born(pid) != born:
                return f"Ray's {name} on this machine died", GONE_S
            if _state(pid) in STOPPED:
                return f"Ray's {name} on this machine was stopped", GONE_S
        return ("Ray did not end after the last trial", LINGER_S) if over() else None


@contextmanager
def driving(address: str, resources: Resources, tell: Tell, ending: Ending) -> Iterator[Driver]:
    """A process connected to Ray, a new one on this machine or the cluster at `address`; none is left behind.

    Where this process is connected to a Ray already it is that one. Raises what `connected` raises.
    """
    driver = Driver(address, resources, tell)
    try:
        driver.connect()
        yield driver
        driver.leave()
    except KeyboardInterrupt:
        ending.arrived()
        raise
    finally:
        driver.end()
        driver.close()


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Refuse a Ray that fails before anything has begun."""
    try:
        yield
    except Lost as error:
        raise InputError(
            f"--address {address}: Ray cannot be used ({error}): try again, or use --address serial."
        ) from None


def _running() -> str | None:
    """The Ray that this process itself is connected to."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().gcs_address if ray is not None and ray.is_initialized() else None


def _end_session(leader: int) -> None:
    """Kill every process of a session, those as well that lost their parents, until none is left."""
    deadline = time.monotonic() + LEAVE_S
    while (members := _session(leader)) and time.monotonic() < deadline:
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _session(leader: int) -> list[int]:
    """The processes of a session that have not ended yet."""
    pids = (int(path.name) for path in PROC.glob("[0-9]*"))
    return [pid for pid in pids if _stat(pid, 3) == str(leader) and _state(pid) not in ENDED]


def _stat(pid: int, place: int) -> str:
    """What /proc/PID/stat has at a place after the command; empty where the process is there no more."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[place]
    except OSError:
        return ""


def _state(pid: int) -> str:
    """Running, stopped, a zombie: the kernel's letter."""
    return _stat(pid, 0)


def _born(pid: int) -> str | None:
    """When a process started, by the kernel's clock, which tells it from a later one; None once it ended."""
    return None if _state(pid) in ENDED else _stat(pid, 19)


def main(number: int) -> None:
    """In the driver's process: connect to Ray, and do what the launch asks for until it has enough."""
    os.set_inheritable(number, False)
    pipe = Connection(number)
    end_with_parent()
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        sys.argv, script, address, resources, running = pipe.recv()
        if script is not None:
            sys.modules["__main__"].__file__ = script  # Ray's workers look for modules beside it
        try:
            _serve(pipe, address, resources, running)
        except Exception as error:
            pipe.send(("raised", _told(error)))


def _serve(pipe: Connection, address: str, resources: Resources, running: str | None) -> None:
    if running is not None:
        init(running)
    with connected(address, resources, lambda line: pipe.send(("said", line))):
        signal.signal(signal.SIGTERM, lambda *_: None)  # who ends a whole job means the launch
        own = address == LOCAL and running is None
        with nullcontext() if own else _end_with_node():
            pipe.send(("returned", _own_processes() if own else {}))
            for function, arguments in iter(pipe.recv, None):
                pipe.send(_answer(function, arguments))


def _answer(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[str, Any]:
    try:
        return "returned", function(*arguments)
    except Exception as error:
        return "raised", _told(error)


def _told(error: Exception) -> Exception:
    """The error as it can travel; where it is not the user's, the driver's output has its traceback."""
    if isinstance(error, InputError):
        return error
    with suppress(OSError):
        traceback.print_exception(error)
    return Lost(f"{type(error).__name__}: {one_line(error)[:300]}".rstrip(": "))


@contextmanager
def _end_with_node() -> Iterator[None]:
    """End this process once its node of a cluster is dead: Tune would wait for ever."""
    import ray

    node, over = ray.get_runtime_context().get_node_id(), Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            if not any(one["NodeID"] == node and one["Alive"] for one in ray.nodes()):
                os._exit(CUT_OFF)

    Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _own_processes() -> dict[str, int]:
    """The pids of the vital processes of the Ray that this process has started.

    Private to Ray (checked with 2.55 and 2.60).
    """
    from ray._private.worker import _global_node

    return {name: _global_node.all_processes[name][0].process.pid for name in VITAL}
