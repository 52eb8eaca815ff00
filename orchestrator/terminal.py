"""The console that people read: rich's, but for what it does when they have stopped reading."""

from __future__ import annotations

from typing import Any

from rich.console import Console as RichConsole
from rich.text import Text


class Console(RichConsole):
    """On stdout a reader who has left ends the command; messages on stderr go unread, and the run goes on.

    So they do where the terminal is closed, or the file is on a full disk.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            if not self.stderr:
                raise
            self.quiet = True

    def on_broken_pipe(self) -> None:
        """Where rich would exit with 1, which is a verdict here, let BrokenPipeError go to the command."""
        self.quiet = True
        if not self.stderr:
            raise


def arm_cell(label: str) -> Text:
    """An arm in a table, its point of the grid on lines of their own: a narrow terminal cuts nothing off."""
    return Text(label.replace(",", ",\n"), overflow="fold")
