"""How far an experiment is, by its trials' own files: a live table, plain lines, or JSON."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.records import ResultsFolder
from analysis.sizes import size
from orchestrator import attempts, space
from orchestrator.attempts import RESULTS
from orchestrator.collect import read_plan
from orchestrator.terminal import arm_cell
from trainables.config import InputError
from trainables.json_files import CorruptFile
from trainables.record import Row
from trainables.trial_folder import TrialFolder

POLL_S = 1.0
SHARE_OF_POLLS = 0.1
"""Of the driver's time that looking at folders may take: many or slow folders are looked at less often."""
TELL_EVERY_S = 10.0
"""Seconds between two lines on the whole run for machines."""
SEEDS_IN_COLUMNS = 12
"""With more seeds than this the table counts trials instead of showing each."""
NO_ROOM = "waiting_for_room"
"""The status of a trial that waits for a full storage."""
MARKS = {"completed": "[green]done[/]", "diverged": "[yellow]diverged[/]", "waiting": "[dim]-[/]"}
KINDS = ("done", "running", "failed", "waiting")
Cells = Sequence[Mapping[str, Any]]
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class State:
    """Where one trial stands."""

    status: str
    """waiting, running, waiting_for_room, or how its last attempt ended."""
    fraction: float = 0.0
    """Of its steps, 0 to 1."""
    step: int = 0
    tokens: int = 0
    wall_s: float = 0.0
    """Seconds that its steps took so far."""
    needs_bytes: int | None = None
    """What must be free on the storage before it goes on; None where it does not wait for that."""

    @property
    def kind(self) -> str:
        """done, running, failed or waiting."""
        if self.status in RESULTS:
            return "done"
        if self.status == NO_ROOM:
            return "waiting"
        return self.status if self.status in ("running", "waiting") else "failed"

    @property
    def steps_per_s(self) -> float | None:
        return self.step / self.wall_s if self.wall_s > 0 else None

    @property
    def tokens_per_s(self) -> float | None:
        return self.tokens / self.wall_s if self.wall_s > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until its last step at its pace so far; None if it does not run, or has no pace yet."""
        if self.status != "running" or not (self.fraction and self.wall_s):
            return None
        return self.wall_s * (1 - self.fraction) / self.fraction

    @property
    def mark(self) -> str:
        """Its place in the table: percent of its steps, steps a second, time left."""
        if self.status == NO_ROOM:
            return f"[yellow]waits for {size(self.needs_bytes)}[/]"
        if self.status != "running":
            return MARKS.get(self.status, f"[red]{self.status}[/]")
        parts = [f"{100 * self.fraction:.0f} %"]
        if self.steps_per_s is not None:
            parts.append(f"{self.steps_per_s:.3g}/s")
        if self.left_s is not None:
            parts.append(_span(self.left_s))
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """For machines; what is not known is null."""
        return {
            "status": self.status,
            "fraction": round(self.fraction, 4),
            "step": self.step,
            "tokens": self.tokens,
            "steps_per_s": self.steps_per_s,
            "tokens_per_s": self.tokens_per_s,
            "left_s": self.left_s,
            "needs_bytes": self.needs_bytes,
        }


def state_of(path: Path, config_hash: str) -> State:
    """Where the trial in this folder stands."""
    try:
        result = TrialFolder(path).read_result(config_hash)
    except CorruptFile:
        return State("crashed")
    if result is not None:
        numbers = (result.get(name) or 0 for name in ("completed_steps", "tokens_seen", "wall_s"))
        return State(result["status"], 1.0, *numbers)
    known, needs = attempts.read(path), space.waits_for(path)
    if needs is None and not known:
        return State("waiting")
    status = NO_ROOM if needs is not None else known[-1].status or "running"
    if (row := TrialFolder(path).read_last_row()) is None:
        return State(status, needs_bytes=needs)
    fraction = _fraction(row, path, config_hash)
    return State(status, fraction, row["step"], row["tokens"], row["wall_s"], needs)


class Board:
    """The states of all trials; a look reads only the folders in which something has changed."""

    def __init__(self, trials: Path, cells: Cells) -> None:
        self.trials, self.cells = trials, cells
        self.states = {cell["trial_id"]: State("waiting") for cell in cells}
        self._open = list(cells)
        self._stamps: dict[str, tuple[Any, ...]] = {}

    def look(self) -> list[tuple[Mapping[str, Any], State, State]]:
        """The trials that changed since the last look: cell, state before, state now."""
        there, changed, still_open = self._folders(), [], []
        for cell in self._open:
            trial = cell["trial_id"]
            before = self.states[trial]
            known = None if before.status == NO_ROOM else self._stamps.get(trial)
            if trial in there and (stamp := _stamp(self.trials / trial)) != known:
                self._stamps[trial] = stamp
                self.states[trial] = now = state_of(self.trials / trial, cell["config_hash"])
                if now != before:
                    changed.append((cell, before, now))
            if self.states[trial].status not in RESULTS:
                still_open.append(cell)
        self._open = still_open
        return changed

    @property
    def over(self) -> bool:
        """Whether every trial had a result at the last look."""
        return not self._open

    def counts(self) -> dict[str, int]:
        """Trials that are done, running, failed and waiting."""
        return _counts(self.states.values())

    def done(self) -> float:
        """Trials that are done, with the parts of those that are not."""
        return sum(state.fraction for state in self.states.values())

    def now(self, status: str) -> list[State]:
        """Trials that run, or wait for room, at the last look."""
        there = (self.states[cell["trial_id"]] for cell in self._open)
        return [state for state in there if state.status == status]

    def lack(self) -> str | None:
        """One sentence on a full storage for which trials wait; None while none does."""
        if not (waiting := self.now(NO_ROOM)):
            return None
        most, place = max(state.needs_bytes or 0 for state in waiting), self.trials.parent
        try:
            free = size(space.free_at(place))
        except OSError:  # a storage that is away for a moment
            return None
        return (
            f"the storage is full: a trial needs {size(most)} at {place}, where {free} are free; trials wait "
            f"{_span(space.PATIENCE_S)} for it, and go on once there is room"
        )

    def _folders(self) -> set[str]:
        try:
            return set(os.listdir(self.trials))
        except OSError:
            return set()


def board_of(folder: str) -> Board:
    """Where an experiment stands, by its folder; InputError where it holds none."""
    results = ResultsFolder(folder)
    try:
        cells = read_plan(results)["cells"]
    except FileNotFoundError:
        raise InputError(f"{folder} holds no experiment: give the folder that `kvtune run` writes.") from None
    board = Board(results.trials, cells)
    board.look()
    return board


def table_of(cells: Cells, states: Mapping[str, State]) -> Table:
    """Arm by seed, each trial with its progress; counts where there are many seeds."""
    seeds = sorted({cell["seed"] for cell in cells})
    arms: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        arms[cell["arm"]].append(cell)
    table = Table()
    table.add_column("arm")
    many = len(seeds) > SEEDS_IN_COLUMNS
    for name in KINDS if many else (f"seed {seed}" for seed in seeds):
        table.add_column(name, justify="right")
    for arm, own in arms.items():
        if many:
            counts = _counts(states[cell["trial_id"]] for cell in own)
            full = sum(states[cell["trial_id"]].status == NO_ROOM for cell in own)
            told = f" ([yellow]{full} for room[/])" if full else ""
            table.add_row(arm_cell(arm), *(f"{counts[kind]}{told * (kind == 'waiting')}" for kind in KINDS))
        else:
            found = {cell["seed"]: states[cell["trial_id"]].mark for cell in own}
            table.add_row(arm_cell(arm), *(found.get(seed, "") for seed in seeds))
    return table


def _counts(states: Iterable[State]) -> dict[str, int]:
    kinds = Counter(state.kind for state in states)
    return {kind: kinds[kind] for kind in KINDS}


def _stamp(path: Path) -> tuple[Any, ...]:
    """What changes when a trial gets on."""
    folder, stamps = TrialFolder(path), []
    for file in (path, folder.result, path / attempts.FILE, folder.metrics):
        try:
            found = file.stat()
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            stamps.append((0, 0, 0))
    return tuple(stamps)


def _fraction(row: Row, path: Path, config_hash: str) -> float:
    """Of the trial's steps, as far as its config tells."""
    try:
        config = TrialFolder(path).config_of(config_hash)
    except CorruptFile:
        return 0.0
    if config.get("max_steps"):
        return min(row["step"] / config["max_steps"], 1.0)
    return min(max(row["epoch"] / config["epochs"], 0.0), 1.0) if config else 0.0


class Progress:
    """Shows the trials of a run until it ends, from a thread of its own; `tell` gets plain values."""

    def __init__(
        self,
        trials: Path,
        cells: Cells,
        console: Console,
        tell: Tell | None = None,
    ) -> None:
        self.board, self.console, self.tell = Board(trials, cells), console, tell
        self.board.look()
        self._began = self._told = time.monotonic()
        self._done_before = self.board.done()
        self._over = self.board.counts()["done"]
        self._told_lack = False
        self.unread = False
        """Whether whoever read what is shown has left; the trials go on."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._live = (
            Live(self._render(), console=console, auto_refresh=False) if console.is_terminal else None
        )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._update()
        if self._live:
            with suppress(OSError):
                self._live.stop()

    def _watch(self) -> None:
        pause = POLL_S
        while not self._stop.wait(pause):
            began = time.monotonic()
            self._update()
            pause = max(POLL_S, (time.monotonic() - began) / SHARE_OF_POLLS)

    def _update(self) -> None:
        changed = self.board.look()
        try:
            if not self.unread:
                self._show(changed)
        except OSError:  # the reader has left, the terminal is closed, the disk full: the run goes on
            self.unread = True

    def _show(self, changed: Sequence[tuple[Mapping[str, Any], State, State]]) -> None:
        for cell, before, now in changed:
            if now.status != before.status:
                self._tell_change(cell, now)
        if not self._told_lack and (lack := self.board.lack()):
            self._told_lack = True
            self.console.print(lack, markup=False, highlight=False, soft_wrap=True)
        if self.tell and time.monotonic() - self._told >= TELL_EVERY_S:
            self._told = time.monotonic()
            self.tell({"event": "progress", **self.pace()})
        if self._live:
            self._live.update(self._render(), refresh=True)

    def _tell_change(self, cell: Mapping[str, Any], now: State) -> None:
        if self.tell:
            names = {name: cell[name] for name in ("trial_id", "arm", "seed")}
            self.tell({"event": "trial", **names, **now.to_dict()})
        if self._live or now.kind in ("waiting", "running"):
            return
        self._over += now.status in RESULTS
        place = f"[{self._over}/{len(self.board.cells)}] {cell['arm']} seed {cell['seed']}"
        line = f"{place}: {now.status} at step {now.step}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def pace(self) -> dict[str, Any]:
        """Counts, rates of the trials at work together, seconds so far and left; unknown is null."""
        done, elapsed = self.board.done(), time.monotonic() - self._began
        gained, running = done - self._done_before, self.board.now("running")
        return {
            **self.board.counts(),
            "steps_per_s": sum(state.steps_per_s or 0.0 for state in running),
            "tokens_per_s": sum(state.tokens_per_s or 0.0 for state in running),
            "elapsed_s": elapsed,
            "left_s": (len(self.board.cells) - done) * elapsed / gained if gained > 0 else None,
        }

    def _render(self) -> Group:
        pace = self.pace()
        parts = [f"{pace['done']} of {len(self.board.cells)} trials done"]
        if pace["steps_per_s"]:
            parts.append(f"{pace['steps_per_s']:.3g} steps/s, {pace['tokens_per_s']:.3g} tokens/s")
        if waiting := len(self.board.now(NO_ROOM)):
            parts.append(f"{waiting} wait for room on the storage")
        if pace["left_s"] is not None:
            parts.append(f"{_span(pace['elapsed_s'])} so far, about {_span(pace['left_s'])} left")
        return Group(table_of(self.board.cells, self.board.states), Text(", ".join(parts)))


def watch(board: Board, console: Console, tell: Tell | None = None) -> None:
    """Show an experiment that runs elsewhere until every trial has a result, or Ctrl-C.

    Raises BrokenPipeError where nobody reads on.
    """
    with suppress(KeyboardInterrupt), Progress(board.trials, board.cells, console, tell) as progress:
        while not (progress.board.over or progress.unread):
            time.sleep(POLL_S)
        if progress.unread:
            raise BrokenPipeError


def _span(seconds: float) -> str:
    """Seconds as people read them: 45 s, 4 min, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
