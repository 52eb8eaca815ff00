"""A batch system's long TMPDIR, one that is not there, and the CPUs that it gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import sockets
from tests.fakes import write_experiment
from trainables.config import InputError

ROOT = Path(__file__).resolve().parents[2]


def folder_of(place: Path, length: int) -> Path:
    """A folder whose path has so many bytes."""
    folder = place / ("x" * (length - len(str(place)) - 1))
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("length", "moved_with_ray", "moved_without"),
    [(39, 0, 0), (40, 1, 0), (75, 1, 0), (76, 1, 1), (200, 1, 1)],
)
def test_sockets_move_where_their_paths_would_pass_107_bytes_and_it_is_told_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, length: int, moved_with_ray: int, moved_without: int
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder := folder_of(place, length)))

    with_ray, without = sockets.moved(ray=True), sockets.moved(ray=False)

    assert (len(with_ray), len(without)) == (moved_with_ray, moved_without)
    assert sockets.ray_folder() == ("/tmp/ray" if moved_with_ray else f"{folder}/ray")
    for line in with_ray:
        assert line.startswith(f"TMPDIR {folder} has {length} bytes")
        assert "107" in line
        assert line.endswith("sockets lie in /tmp")


def test_rays_own_variable_goes_before_the_systems(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setenv("RAY_TMPDIR", str(place / "gone"))

    assert sockets.moved(ray=True) == [
        f"RAY_TMPDIR {place / 'gone'} is no folder that is there: sockets lie in /tmp"
    ]
    assert sockets.moved(ray=False) == []


def test_a_tmpdir_that_cannot_be_written_is_told_whoever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/proc")

    (line,) = sockets.moved(ray=True)

    assert line.startswith("TMPDIR /proc cannot be written (")


def test_where_no_place_is_short_enough_one_sentence_names_the_variable_and_the_way_out(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "SHORT", ())
    monkeypatch.setenv("TMPDIR", str(folder_of(place, 90)))

    with pytest.raises(
        InputError, match=r"^TMPDIR .* 90 bytes.* 107.*: set TMPDIR to .* at most 75 bytes\.$"
    ):
        sockets.moved(ray=False)


PROGRAM = """
import os, sys, tempfile
from orchestrator import capacity, cli, driver, launch
from tests.fakes import FAKE
launch.Objective = lambda: FAKE
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
def close(jobs, real=launch.closing.close, **options):
    print("SCRATCH", tempfile.gettempdir())
    real(jobs, **options)
launch.closing.close = close
def ask(self, function, *arguments, real=driver.Driver.ask, **options):
    if function.__name__ == "fit":
        print("CPUS", *(place.resources["CPU"] for place in real(self, capacity.standing_nodes)))
    return real(self, function, *arguments, **options)
driver.Driver.ask = ask
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("address", ["serial", pytest.param("local", marks=pytest.mark.ray)])
def test_a_run_with_a_long_tmpdir_and_one_cpu_of_the_machine_has_one_slot_and_keeps_its_scratch(
    place: Path, address: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"}
    environment |= {"TMPDIR": str(folder_of(place, 90)), "PYTHONPATH": str(ROOT)}
    words = ["run", str(write_experiment(place)), "--storage", str(place / "s"), "--address", address]

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("sockets lie in") == 1
    assert f"SCRATCH {environment['TMPDIR']}\n" in done.stdout
    assert ("CPUS 1.0\n" in done.stdout) == (address == "local")
