"""The console that people read: rich's, but for what it does when they have stopped reading."""

from __future__ import annotations

from rich.console import Console as RichConsole


class Console(RichConsole):
    """On stdout a reader who has left ends the command; messages on stderr go unread, and the run goes on."""

    def on_broken_pipe(self) -> None:
        """Where rich would exit with 1, which is a verdict here, let BrokenPipeError go to the command."""
        self.quiet = True
        if not self.stderr:
            raise
