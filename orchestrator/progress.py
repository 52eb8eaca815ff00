"""How far an experiment is, by its trials' own files: a live table on a terminal, else plain lines."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator import attempts
from orchestrator.attempts import RESULTS
from orchestrator.trial_files import CorruptFile, read_last_row, read_result
from trainables.trial_folder import TrialFolder

POLL_S = 1.0
SEEDS_IN_COLUMNS = 12
"""With more seeds than this the table counts trials instead of showing each."""
MARKS = {"completed": "[green]done[/]", "diverged": "[yellow]diverged[/]", "waiting": "[dim]-[/]"}


@dataclass(frozen=True)
class State:
    """Where one trial stands."""

    status: str
    """waiting, running, or how its last attempt ended."""
    fraction: float = 0.0
    """Of its steps, 0 to 1."""
    step: int = 0

    @property
    def mark(self) -> str:
        if self.status == "running":
            return f"{100 * self.fraction:.0f} %"
        return MARKS.get(self.status, f"[red]{self.status}[/]")


def state_of(path: Path, config_hash: str) -> State:
    """Where the trial in this folder stands."""
    try:
        result = read_result(path, config_hash)
    except CorruptFile:
        return State("crashed")
    if result is not None:
        return State(str(result["status"]), 1.0, int(result.get("completed_steps") or 0))
    known = attempts.read(path)
    if not known:
        return State("waiting")
    row = read_last_row(path) or {}
    status = known[-1].status or "running"
    return State(status, _fraction(row, path) if row else 0.0, int(row.get("step") or 0))


def table_of(cells: Sequence[Mapping[str, Any]], states: Mapping[str, State], caption: str = "") -> Table:
    """Arm by seed, each trial with its progress; counts where there are many seeds."""
    seeds = sorted({cell["seed"] for cell in cells})
    arms = list(dict.fromkeys(cell["arm"] for cell in cells))
    table = Table(caption=caption or None, caption_justify="left")
    table.add_column("arm")
    if len(seeds) > SEEDS_IN_COLUMNS:
        for status in ("done", "running", "failed", "waiting"):
            table.add_column(status, justify="right")
        for arm in arms:
            table.add_row(arm, *_counts([states[c["trial_id"]] for c in cells if c["arm"] == arm]))
        return table
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    found = {(cell["arm"], cell["seed"]): states[cell["trial_id"]].mark for cell in cells}
    for arm in arms:
        table.add_row(arm, *(found.get((arm, seed), "") for seed in seeds))
    return table


def _counts(states: Sequence[State]) -> list[str]:
    kinds = Counter(
        "done" if s.status in RESULTS else s.status if s.status in ("running", "waiting") else "failed"
        for s in states
    )
    return [str(kinds[kind]) for kind in ("done", "running", "failed", "waiting")]


def _fraction(row: Mapping[str, Any], path: Path) -> float:
    try:
        config = json.loads(TrialFolder(path).config.read_text(encoding="utf-8"))
        done = (
            row["step"] / config["max_steps"] if config.get("max_steps") else row["epoch"] / config["epochs"]
        )
        return float(min(max(done, 0.0), 1.0))
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError):
        return 0.0


class Progress:
    """Shows the trials of a run until it ends; reads their folders once a second in a thread of its own."""

    def __init__(self, trials: Path, cells: Sequence[Mapping[str, Any]], console: Console) -> None:
        self.trials, self.cells, self.console = trials, cells, console
        self.states = self._read({})
        self._began = time.monotonic()
        self._done_before = self._done()
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
            self._live.stop()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            self._update()

    def _update(self) -> None:
        before, self.states = self.states, self._read(self.states)
        if self._live:
            self._live.update(self._render(), refresh=True)
            return
        over = sum(state.status in RESULTS for state in before.values())
        for cell in self.cells:
            now, then = self.states[cell["trial_id"]], before[cell["trial_id"]]
            if now.status == then.status or now.status in ("waiting", "running"):
                continue
            over += now.status in RESULTS
            place = f"[{over}/{len(self.cells)}] {cell['arm']} seed {cell['seed']}"
            line = f"{place}: {now.status} at step {now.step}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _read(self, known: Mapping[str, State]) -> dict[str, State]:
        """All states afresh, save those that can change no more."""
        states = {}
        for cell in self.cells:
            trial = cell["trial_id"]
            over = trial in known and known[trial].status in RESULTS
            states[trial] = known[trial] if over else state_of(self.trials / trial, cell["config_hash"])
        return states

    def _render(self) -> Table:
        return table_of(self.cells, self.states, self._time_left())

    def _done(self) -> float:
        return sum(state.fraction for state in self.states.values())

    def _time_left(self) -> str:
        gained, elapsed = self._done() - self._done_before, time.monotonic() - self._began
        done = f"{sum(s.status in RESULTS for s in self.states.values())} of {len(self.cells)} trials done"
        if gained <= 0:
            return done
        left = (len(self.cells) - self._done()) * elapsed / gained
        return f"{done}, {_span(elapsed)} so far, about {_span(left)} left"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
