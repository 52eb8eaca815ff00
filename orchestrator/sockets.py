"""Where sockets lie: their paths may have 107 bytes, and a batch system's TMPDIR may leave no room for that.

Only sockets, and the folder of a Ray of ours around them, move to a shorter place: what trials write for a
while stays in the user's TMPDIR.
"""

from __future__ import annotations

import os
import sys
import tempfile
from multiprocessing import util
from pathlib import Path

from trainables.config import InputError

LIMIT = 103 if sys.platform == "darwin" else 107
"""Bytes of a unix socket's path."""
OF_RAY = len("/ray/session_2026-11-25_15-54-08_123456_4194304/sockets/plasma_store")
OF_PYTHON = len("/pymp-12345678/listener-12345678")
"""What is added to the folder: by Ray, and by multiprocessing for its forkserver."""
SHORT = ("/tmp", "/var/tmp", "/dev/shm")
VARIABLES = ("RAY_TMPDIR", "TMPDIR") if sys.platform == "linux" else ("RAY_TMPDIR",)
"""Where Ray looks for the folder to work in, in this order."""


def ray_folder() -> str:
    """The folder for a Ray of ours: as the user's variables say, if it can hold sockets, else another."""
    return os.path.join(_place(VARIABLES, OF_RAY)[0], "ray")


def shorten_python() -> None:
    """Have multiprocessing make its sockets where they can be; it asks for a place once in a process."""
    before, tempfile.tempdir = tempfile.tempdir, _place(("TMPDIR",), OF_PYTHON)[0]
    try:
        util.get_temp_dir()
    finally:
        tempfile.tempdir = before


def moved(*, ray: bool) -> list[str]:
    """What to tell the user of sockets that do not lie where the variables say; InputError if nowhere can."""
    of_ray = [_place(VARIABLES, OF_RAY)[1]] if ray else []
    lines = [*of_ray, _place(("TMPDIR",), OF_PYTHON)[1]]
    return list(dict.fromkeys(line for line in lines if line))


def _place(variables: tuple[str, ...], added: int) -> tuple[str, str | None]:
    """A folder for sockets, and why it is not what the first variable that is set names."""
    name = next((name for name in variables if os.environ.get(name)), None)
    given = [os.path.abspath(os.environ[name])] if name else []
    lacks = {place: _lack(place, added) for place in (*given, *SHORT)}
    found = next((place for place, lack in lacks.items() if lack is None), None)
    if found is None:
        place, lack = next(iter(lacks.items()))
        raise InputError(
            f"{name or 'the temporary folder'} {place} {lack}, and there is no other place for sockets: "
            f"set {variables[-1]} to a folder whose path has at most {LIMIT - added} bytes."
        )
    if not given or found == given[0]:
        return found, None
    return found, f"{name} {given[0]} {lacks[given[0]]}: sockets lie in {found}"


def _lack(place: str, added: int) -> str | None:
    if not Path(place).is_dir():
        return "is no folder that is there"
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    long = len(os.fsencode(place))
    if long + added > LIMIT:
        return f"has {long} bytes, too many for a socket, whose whole path may have {LIMIT}"
    return None
