"""What a trial's folder says to who knows the plan: a corrupt file is a finding, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainables.config import hash_of
from trainables.json_files import CorruptFile
from trainables.trial_folder import TrialFolder


def read_result(folder: Path, config_hash: str) -> dict[str, Any] | None:
    """The result of the trial, None if it has not ended.

    Raises CorruptFile if it, or the record that it seals, is not as it was written, or of another
    configuration.
    """
    files = TrialFolder(folder)
    result = files.read_result()
    if result is None:
        return None
    if result["config_hash"] != config_hash:
        raise CorruptFile(files.result, f"is of configuration {result['config_hash']!r}, not {config_hash!r}")
    if not read_config(folder, config_hash):
        raise CorruptFile(files.config, "is gone, and the trial has a result")
    return result


def read_config(folder: Path, config_hash: str) -> dict[str, Any]:
    """config.json of the trial, empty if it is not there. Raises CorruptFile if it means another trial."""
    files = TrialFolder(folder)
    config = files.read_config()
    if config and hash_of(config) != config_hash:
        raise CorruptFile(files.config, f"is of configuration {hash_of(config)!r}, not {config_hash!r}")
    return config
