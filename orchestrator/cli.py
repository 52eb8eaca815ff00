"""The kvtune command: parses, calls one function, prints where the result lies. Heavy imports wait."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from orchestrator import job_commands
from orchestrator.flags import Changes, Experiment, Seeds
from trainables.config import InputError, one_line, unknown
from trainables.pipes import until_unread

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.report import ReportResult
    from orchestrator.launch import Summary

DESCRIPTION = "Is KV-cache distillation better with this alignment than with that one, or is it noise?"
BAD_INPUT, INVALID, INTERRUPTED = 2, 2, 130


def run(
    experiment: Experiment = "quickstart",
    /,
    *,
    set: Changes = (),
    seeds: Seeds = None,
    storage: str = "runs",
    address: str = "local",
    yes: bool = False,
    json: bool = False,
) -> int:
    """Run an experiment and report it; run it again to do what is missing, failed or changed.

    Exit 0; 1 where trials have no result; 2 where a contrast is INVALID, before all else; 130 on Ctrl-C.

    Args:
        storage: The folder that holds experiments; on a cluster, one that all nodes share.
        address: local: Ray on this machine; serial: no Ray, same results; auto or host:port: a Ray cluster.
        yes: Agree to edits that set finished trials aside or leave them out; without it you are asked.
        json: Print JSON lines for machines on stdout: trials as they change, then a summary.
    """
    from orchestrator import machine
    from orchestrator.launch import run as launch
    from orchestrator.spec import load_spec
    from orchestrator.terminal import Console

    changes = [change for group in set for change in group]
    spec = load_spec(experiment, changes, seeds)
    tell = machine.emit if json else None
    summary = launch(spec, storage=storage, address=address, console=Console(stderr=True), yes=yes, tell=tell)
    console = Console()
    if not json:
        _print_trials(summary, console)
    reported = summary.counts["completed"] and not (summary.interrupted or summary.lack)
    found = _report(str(summary.folder)) if reported else None
    code = _code_of_run(summary, found)
    if json:
        machine.emit(machine.of_summary(summary, found, code))
    elif found is not None:
        _print_report(found, console)
    return code


def _code_of_run(summary: Summary, found: ReportResult | None) -> int:
    """The report's 2 where a contrast is INVALID, whatever else happened: running again does not mend that.

    Else what became of the trials. NOT TESTABLE is what so few seeds were bound to say, and no failure.
    """
    invalid = found is not None and found.exit_code_for(None) == INVALID
    return INVALID if invalid else summary.exit_code


def plan(
    experiment: Experiment = "quickstart",
    /,
    *,
    set: Changes = (),
    seeds: Seeds = None,
    storage: str = "runs",
    address: str = "local",
    json: bool = False,
) -> int:
    """Say what a run would cost and can show, from a probe of a few real steps; refuse what cannot run.

    Args:
        storage: The folder that holds experiments: what is done there already is not counted again.
        address: As for run; or a cluster.yaml, to plan for the cluster that it describes, of whose storage
            nothing is known.
        json: Print one JSON object instead of the text.
    """
    from orchestrator import machine
    from orchestrator.plan import forecast, refuse_full_disk
    from orchestrator.plan_text import print_forecast
    from orchestrator.spec import load_spec
    from orchestrator.terminal import Console

    spec = load_spec(experiment, [change for group in set for change in group], seeds)
    found = forecast(spec, storage=storage, address=address, console=Console(stderr=True))
    if json:
        machine.emit(found.to_dict())
    else:
        print_forecast(found, Console())
    refuse_full_disk(found)
    return 0


def report(
    places: tuple[str, ...],
    /,
    *,
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    map: str | None = None,
    out: str | None = None,
    fail_on: Literal["inferior", "inconclusive"] | None = None,
    json: bool = False,
) -> int:
    """Write report.html, report.md, results.json, figures, tables; exit 0, 2 if INVALID, 3 if NOT TESTABLE.

    Args:
        places: The folder that `kvtune run` wrote (STORAGE/NAME); with --from, files of other people's runs.
        from_: Report runs that kvtune did not make: csv, parquet, huggingface, lightning, ray,
            tensorboard or wandb-export.
        map: With --from: a YAML file that says which columns are arm, seed, step and metric.
        out: With --from: the folder to write; imported/NAME when left out.
        fail_on: Exit 1 if a planned contrast is INFERIOR; inconclusive: also if one is INCONCLUSIVE.
        json: Print one JSON object for machines instead.
    """
    from orchestrator import machine
    from orchestrator.terminal import Console

    folder = _imported(from_, places, map, out) if from_ else _own_folder(places, map, out)
    found = _report(str(folder))
    if json:
        machine.emit(machine.of_report(found))
    else:
        _print_report(found, Console())
    return found.exit_code_for(fail_on)


def _own_folder(places: Sequence[str], map: str | None, out: str | None) -> Path:
    """The experiment's folder, its tables collected anew where its trials are there."""
    from analysis.records import ResultsFolder
    from orchestrator.collect import collect

    if map or out:
        raise InputError(f"{'--map' if map else '--out'} has no effect without --from: leave it out.")
    if len(places) != 1:
        raise InputError(f"kvtune report takes one folder, STORAGE/NAME, got {len(places)}.")
    results = ResultsFolder(places[0])
    if results.trials.is_dir() and results.plan.is_file():
        collect(results)
    return results.path


def _imported(kind: str, places: Sequence[str], map: str | None, out: str | None) -> Path:
    from analysis.intake import import_runs
    from orchestrator.yaml_text import parse

    if not places or map is None:
        raise InputError(f"--from {kind} takes FILE... and --map MAPPING.yaml, which names their columns.")
    try:
        text = Path(map).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"--map {map} cannot be read ({getattr(error, 'strerror', error)}).") from None
    return import_runs(kind, places, parse(text, map), map, out)


def status(target: str, /, *, address: str | None = None, follow: bool = False, json: bool = False) -> int:
    """Show how far every trial of an experiment is, by arm and seed; or where a job on a cluster stands.

    Args:
        target: The folder that `kvtune run` writes (STORAGE/NAME), or a job's name.
        address: Of a job: the cluster's dashboard; $RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.
        follow: Go on showing an experiment until every trial has a result; Ctrl-C leaves its run alone.
        json: Print one JSON object for machines instead; with --follow, JSON lines of what changes after it.
    """
    from orchestrator import machine
    from orchestrator.progress import board_of, table_of, watch
    from orchestrator.terminal import Console

    if address or not (os.path.exists(target) or "/" in target):
        return job_commands.job_status(target, address, json=json)
    board = board_of(target)
    if json:
        machine.emit(machine.of_board(target, board))
    elif not follow or board.over:
        console = Console()
        console.print(table_of(board.cells, board.states))
        if lack := board.lack():
            console.print(lack, markup=False, highlight=False, soft_wrap=True)
    if follow and not board.over:
        watch(board, Console(stderr=json), machine.emit if json else None)
    return 0


def train(*flags: str) -> int:
    """Train one trial without Ray, with the flags of `python -m trainables` (kvtune train --help)."""
    from trainables.__main__ import main as train_main

    return train_main(list(flags)) or 0


def gates(*flags: str) -> int:
    """Check gates 1 and 2: every stage's shapes and gradients, then ten steps in both modes."""
    from trainables.gates import main as gates_main

    return gates_main(list(flags)) or 0


COMMANDS: dict[str, Callable[..., int]] = {
    "run": run,
    "plan": plan,
    "report": report,
    "status": status,
    "submit": job_commands.submit,
    "logs": job_commands.logs,
    "stop": job_commands.stop,
    "fetch": job_commands.fetch,
    "train": train,
    "gates": gates,
}
HANDED_ON = ("train", "gates")
"""Commands that read their flags themselves."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. What the user can mend is one line on stderr and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return until_unread(functools.partial(_main, arguments))


def _main(arguments: list[str]) -> int:
    try:
        if arguments and arguments[0] in HANDED_ON:
            code = COMMANDS[arguments[0]](*arguments[1:])
        else:
            code = _parse_and_run(arguments)
        print(end="", flush=True)  # what cannot be written is told here, not when the interpreter exits
        return code
    except KeyboardInterrupt:
        print("kvtune: ended before it was done; run the same command again.", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"kvtune: error: {one_line(error)}: make room, then run the same command again.", file=sys.stderr
        )
        return BAD_INPUT
    except ValueError as error:
        if not isinstance(error, InputError) and type(error).__name__ != "ResultsError":
            raise
        print(f"kvtune: error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT


def _parse_and_run(arguments: list[str]) -> int:
    _refuse_unknown_words(arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            call = tyro.extras.subcommand_cli_from_dict(
                {name: _deferred(command) for name, command in COMMANDS.items()},
                prog="kvtune",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            return 0
        raise InputError(_in_one_line(complaint.getvalue())) from None
    if arguments[:1] not in (["run"], ["report"]):
        return call()
    from orchestrator.closing import noting_signals

    with noting_signals():  # while a report is written, too
        return call()


def _deferred(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The command with its flags parsed but not yet run, so that only the parser's complaints are caught."""

    @functools.wraps(command)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(command, *args, **kwargs)

    return bind


def _refuse_unknown_words(arguments: Sequence[str]) -> None:
    """Did you mean, for the command and for its flags."""
    if not arguments or arguments[0] in ("-h", "--help"):
        return
    if arguments[0] not in COMMANDS:
        raise unknown("command", arguments[0][:200], COMMANDS)
    parameters = inspect.signature(COMMANDS[arguments[0]]).parameters.values()
    known = [_flag(p.name) for p in parameters if p.kind is p.KEYWORD_ONLY] + ["--help"]
    for word in arguments[1:]:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag.replace("_", "-") not in known:
            raise unknown(f"kvtune {arguments[0]}: flag", flag[:200], known)
    for word, following in itertools.pairwise([*arguments, "--"]):
        if word == "--set" and following.startswith("--"):
            raise InputError("--set takes field=value, such as base.lr=1e-3, got nothing.")


def _flag(parameter: str) -> str:
    return "--" + parameter.rstrip("_").replace("_", "-")


def _in_one_line(complaint: str) -> str:
    """The parser's box of text as one sentence: without its frame and the hints below its first rule."""
    lines = [line.strip("╭╮╰╯│─ ") for line in complaint.splitlines() if not line.startswith("╭")]
    told = list(itertools.takewhile(lambda line: line and "help" not in line, lines))
    return " ".join(told).rstrip(".") + ": see kvtune --help."


def _report(folder: str) -> ReportResult:
    from analysis.report import write_report

    return write_report(folder)


def _print_report(found: ReportResult, console: Console) -> None:
    from rich.table import Table

    from analysis.sentences import decimals_of_arms, number

    table = Table(show_edge=False)
    for column in ("arm", "mean", "SD", "n", "failures"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    decimals = decimals_of_arms(found.arms)
    for arm in found.arms:
        figures = (number(arm[name], decimals) for name in ("mean", "sd"))
        table.add_row(str(arm["arm"]), *figures, str(arm["n"]), str(arm["failures"]))
    for verdict in _verdicts(found):
        console.print(verdict, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"report: {found.html}", markup=False, highlight=False, soft_wrap=True)


def _verdicts(found: ReportResult) -> list[str]:
    """The sentence of every planned contrast; where there are several, after the names of its arms."""
    if len(found.comparisons) < 2:
        return [found.sentence]
    return [f"{one.treatment} against {one.baseline}: {one.sentence}" for one in found.comparisons]


def _print_trials(summary: Summary, console: Console) -> None:
    """What became of the trials, where that is not all well."""
    if summary.interrupted:
        _print_interruption(summary, console)
        return
    _print_unfinished(summary, console)
    if summary.lack:
        console.print(summary.lack, markup=False, highlight=False, soft_wrap=True)


def _print_unfinished(summary: Summary, console: Console) -> None:
    """Trials without a result: counted, each with its reason and its folder."""
    if not summary.unfinished:
        return
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary.counts.items()))
    console.print(f"{len(summary.unfinished)} of {len(summary.trials)} trials have no result ({counts}):")
    for trial in summary.unfinished:
        place = summary.folder / "trials" / trial.cell["trial_id"]
        reason = trial.reason or "it never started"
        console.print(
            f"  {trial.cell['arm']} seed {trial.cell['seed']}: {trial.status}, "
            f"{len(trial.attempts)} attempts: {reason} [{place}]",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    console.print("Run the same command again to try them again.")


def _print_interruption(summary: Summary, console: Console) -> None:
    left = len(summary.unfinished)
    console.print(
        f"Ended by you with {left} of {len(summary.trials)} trials left; {summary.folder} keeps the rest. "
        "Run the same command again to go on from the newest checkpoints.", highlight=False, soft_wrap=True,
    )  # fmt: skip
