"""On a terminal: a live table, and Ctrl-C that ends cleanly and says how to go on."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sys
import time
from pathlib import Path

from tests.fakes import experiment, write_experiment

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (
    "import sys\nfrom orchestrator import cli, launch\nfrom tests.fakes import FAKE\n"
    "launch.Objective = lambda: FAKE\nsys.exit(cli.main(sys.argv[1:]))\n"
)


def read_until(terminal: int, wanted: str, seconds: float = 60.0) -> str:
    """What the terminal shows until `wanted`, or its end."""
    shown, deadline = "", time.monotonic() + seconds
    while wanted not in shown and time.monotonic() < deadline:
        if terminal in select.select([terminal], [], [], 1.0)[0]:
            try:
                shown += os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                break
    return shown


def test_ctrl_c_on_a_terminal_ends_the_trial_gives_the_cursor_back_and_says_how_to_go_on(place: Path) -> None:
    path = write_experiment(place, base={**experiment()["base"], "lr": 6e-3}, seeds=[0])
    words = ["run", str(path), "--storage", str(place), "--address", "serial"]
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.environ.update(PYTHONPATH=str(ROOT), TERM="xterm", COLUMNS="120")
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM, *words])
    shown = read_until(terminal, "25 %")
    os.write(terminal, b"\x03")
    shown += read_until(terminal, "newest checkpoints")
    shown += read_until(terminal, "never to be seen", seconds=20)
    _, status = os.waitpid(process, 0)

    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert os.waitstatus_to_exitcode(status) == 130, text
    assert "seed 0" in text, "the live table"
    assert "2 of 2 trials left" in text
    assert "Run the same command again" in text
    assert "Traceback" not in text
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"
    ends = [json.loads(p.read_text().splitlines()[-1]) for p in place.glob("fake/trials/*/attempts.jsonl")]
    assert [end["status"] for end in ends] == ["cancelled"]
