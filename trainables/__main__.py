"""`python -m trainables`: one trial without Ray, by the flags of the user's own script."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from trainables.config import DistillConfig, InputError
from trainables.flags import fail, parse
from trainables.pipes import until_unread

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None, prog: str = "python -m trainables") -> int:
    """Parse, train, print the log and the folder; 0 completed, 1 diverged, 2 bad input, 130 Ctrl-C."""
    return until_unread(lambda: _main(sys.argv[1:] if argv is None else argv, prog))


def _main(argv: Sequence[str], prog: str) -> int:
    try:
        return _train(parse(argv, prog))
    except InputError as error:
        return fail(prog, error)


class _Lines(logging.StreamHandler[TextIO]):
    """Log lines for whoever reads them; where nobody does any more, the training ends, to be resumed."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        super().handleError(record)


def _train(config: DistillConfig) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Lines(sys.stdout)])
    logging.getLogger("trainables").setLevel(logging.INFO)
    from trainables.json_files import CorruptFile
    from trainables.trial_folder import TrialFolder, set_aside

    folder = TrialFolder(config.output_dir)
    folder.check(config)
    try:
        ended = folder.read_result(config.hash())
    except CorruptFile as error:
        config = replace(config, output_dir=str(folder.path.absolute()))  # the current folder may be moved
        folder = TrialFolder(config.output_dir)
        print(f"{error.brief}: set aside in {set_aside(folder.path)}, and trained afresh")
        ended = None
    if ended is not None:
        done = f"{ended['status']} at step {ended.get('completed_steps')}"
        print(f"{config.output_dir} holds this trial already, {done}.")
        return 0 if ended["status"] == "completed" else 1
    from trainables.device import present_device
    from trainables.distill import distill
    from trainables.preflight import check, prepare

    present_device(config.device)
    check(config)
    _make(config.output_dir)
    try:
        prepare(config, print)
        result = distill(config, report=lambda row: None, resume_from=folder.newest_checkpoint())
    except KeyboardInterrupt:
        print(f"ended before it was done; {_way_on(folder.newest_checkpoint(), config)}", file=sys.stderr)
        return INTERRUPTED
    print(
        f"{result['status']} after {result['completed_steps']} steps; the record lies in {config.output_dir}"
    )
    return 0 if result["status"] == "completed" else 1


def _way_on(checkpoint: str | None, config: DistillConfig) -> str:
    """From where the same command trains again."""
    if checkpoint is None:
        every = f"one is written every --save_steps {config.save_steps}"
        return f"no checkpoint is there yet ({every}), so the same command begins at step 1."
    name = Path(checkpoint).name
    step = name.rpartition("-")[2]
    return f"the same command goes on from {name}, step {step}; steps after it are computed again."


def _make(folder: str) -> None:
    """Have the trial's folder before a teacher is trained for it in vain."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--output_dir {folder} cannot be made ({reason}): choose another.") from None


if __name__ == "__main__":
    sys.exit(main())
