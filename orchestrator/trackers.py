"""TensorBoard, MLflow and W&B, fed from a trial's own rows in the worker, never in the trial's process.

They are copies for people: the record is the trial's folder. A tracker that fails is left out for the rest of
its trial and told once in the trial's trackers.log; it can neither fail a trial nor change a bit of it.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Protocol, get_args

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from orchestrator.provenance import without_secrets
from trainables.config import InputError
from trainables.json_files import CorruptFile, Whole, read_object
from trainables.trial_folder import TrialFolder

if TYPE_CHECKING:
    from orchestrator.child import Job, Row

Tracker = Literal["tensorboard", "mlflow", "wandb"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)
STATE, COMPLAINTS = "trackers.json", "trackers.log"
"""Which rows of a trial each tracker has; which tracker failed, and why."""
CLOSE_S = 30.0
"""Seconds that a slot waits at most for the trackers of a trial that has ended."""
MLFLOW_BATCH = 1000
"""Most metrics that MLflow takes at once."""
WANDB_TAG = 64
"""Most characters of a W&B tag."""


class Writer(Protocol):
    """One tracker of one trial. `state` is kept between attempts, so that each goes on with the same run."""

    def write(self, rows: Sequence[Row]) -> None:
        """Take rows that it has not had yet, in order."""
        ...

    def close(self, status: str) -> None:
        """The trial ended so."""
        ...


def refuse_missing(names: Iterable[Tracker]) -> None:
    """Raise InputError for a tracker whose package is not installed."""
    for name in names:
        if find_spec(name) is None:
            way = "pip install tensorboard" if name == "tensorboard" else f"pip install 'kvtune[{name}]'"
            raise InputError(
                f"trackers: {name} needs a package that is not installed: {way}, or leave {name} out."
            )


class Tracking:
    """Feeds a trial's rows to its trackers from a thread of its own, so that the trial never waits."""

    def __init__(self, job: Job, on_row: Callable[[Row], None]) -> None:
        self._job, self._folder, self._on_row = job, Path(job.folder), on_row
        self._state = _read_state(self._folder)
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._status = "cancelled"
        self._thread = threading.Thread(target=self._work, name="trackers", daemon=True)

    def __enter__(self) -> Tracking:
        if self._job.trackers:
            self._thread.start()
        return self

    def add(self, row: Row) -> None:
        """Take one more row of the trial, and hand it on."""
        if self._job.trackers:
            self._rows.put(row)
        self._on_row(row)

    def ended(self, status: str) -> None:
        """How the trial ended; cancelled where nobody says."""
        self._status = status

    def __exit__(self, *error: object) -> None:
        """Hand over what is left, for CLOSE_S at most."""
        if not self._job.trackers:
            return
        self._rows.put(None)
        self._thread.join(timeout=CLOSE_S)
        if self._thread.is_alive():
            _complain(self._folder, "trackers", TimeoutError(f"not done {CLOSE_S:g} s after the trial"))

    def _work(self) -> None:
        writers = {name: writer for name in self._job.trackers if (writer := self._opened(name))}
        for rows, over in self._batches():
            for name in list(writers):
                if not self._fed(name, writers[name], rows, over):
                    del writers[name]
            _write_state(self._folder, self._state)

    def _opened(self, name: Tracker) -> Writer | None:
        try:
            writer: Writer = WRITERS[name](self._job, self._state.setdefault(name, {}))
        except Exception as error:
            _complain(self._folder, name, error)
            return None
        return writer

    def _fed(self, name: Tracker, writer: Writer, rows: Sequence[Row], over: bool) -> bool:
        """Hand one tracker the rows that it lacks; False if it failed and is to be left alone."""
        logged, new = dict(self._state[name].get("logged", {})), []
        for row in rows:
            if row["step"] > logged.get(row["split"], -1):
                new.append(row)
                logged[row["split"]] = row["step"]
        try:
            if new:
                writer.write(new)
                self._state[name]["logged"] = logged
            if over:
                writer.close(self._status)
        except Exception as error:
            _complain(self._folder, name, error)
            return False
        return True

    def _batches(self) -> Iterator[tuple[list[Row], bool]]:
        """First what an earlier attempt wrote and a tracker that died with it may lack, then what comes."""
        rows: list[Row | None] = [*_earlier_rows(self._folder)]
        while True:
            rows.append(self._rows.get())
            while not self._rows.empty():
                rows.append(self._rows.get())
            yield [row for row in rows if row is not None], None in rows
            if None in rows:
                return
            rows = []


def complaints(folders: Iterable[Path]) -> list[str]:
    """What trackers had to say of these trials, each thing once."""
    found: dict[str, None] = {}
    for folder in folders:
        try:
            text = (folder / COMPLAINTS).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found.update(dict.fromkeys(text.splitlines()))
    return list(found)


def params_of(job: Job) -> dict[str, Any]:
    """The trial's configuration as trackers show it: without credentials in addresses."""
    shown = {"arm": job.arm, **job.config}
    return {
        name: without_secrets(value) if isinstance(value, str) else value for name, value in shown.items()
    }


def _metrics(row: Row) -> dict[str, float]:
    return {f"{row['split']}/{name}": value for name, value in row["metrics"].items()}


class _TensorBoard:
    """Event files in the trial's folder, so that `tensorboard --logdir .../trials` names runs as trials."""

    def __init__(self, job: Job, state: dict[str, Any]) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._file = EventFileWriter(job.folder)

    def write(self, rows: Sequence[Row]) -> None:
        import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for row in rows:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _metrics(row).items()]
            self._file.add_event(
                Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
            )
        self._file.flush()

    def close(self, status: str) -> None:
        self._file.close()


class _MLflow:
    """A run per trial in the experiment's `mlruns`, or at MLFLOW_TRACKING_URI."""

    def __init__(self, job: Job, state: dict[str, Any]) -> None:
        self._client, place = _mlflow_client(Path(job.folder).parent.parent)
        if state.get("place") != place:
            state.clear()
        run = state.get("run_id")
        if run is None:
            run = self._new_run(job)
            state.update(place=place, run_id=run)
        else:
            self._client.update_run(run, status="RUNNING")
        self._run: str = run

    def _new_run(self, job: Job) -> str:
        from mlflow.entities import Param

        tags = {
            "arm": job.arm,
            "seed": str(job.seed),
            "trial_id": job.trial_id,
            "config_hash": job.config_hash,
        }
        experiment = _mlflow_experiment(self._client, job.experiment)
        run: str = self._client.create_run(experiment, tags=tags, run_name=job.trial_id).info.run_id
        self._client.log_batch(run, params=[Param(k, str(v)[:6000]) for k, v in params_of(job).items()])
        return run

    def write(self, rows: Sequence[Row]) -> None:
        import time

        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(key, v, now, row["step"]) for row in rows for key, v in _metrics(row).items()]
        for start in range(0, len(metrics), MLFLOW_BATCH):
            self._client.log_batch(self._run, metrics=metrics[start : start + MLFLOW_BATCH])

    def close(self, status: str) -> None:
        self._client.set_tag(self._run, "status", status)
        fate = {"completed": "FINISHED", "diverged": "FINISHED", "cancelled": "KILLED"}
        self._client.set_terminated(self._run, fate.get(status, "FAILED"))


class _WandB:
    """A run per trial below the experiment's folder; offline unless WANDB_MODE says otherwise."""

    def __init__(self, job: Job, state: dict[str, Any]) -> None:
        import wandb

        state.setdefault("run_id", secrets.token_hex(4))
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "kvtune"),
            group=job.experiment,
            id=state["run_id"],
            name=job.trial_id,
            tags=[f"arm: {job.arm}"[:WANDB_TAG], f"seed: {job.seed}"],
            config=params_of(job),
            dir=str(Path(job.folder).parent.parent),
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, save_code=False,
                disable_job_creation=True, x_disable_stats=True, x_disable_meta=True,
                x_disable_machine_info=True, x_save_requirements=False,
            ),
        )  # fmt: skip

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log(_metrics(row), step=row["step"])

    def close(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status in ("completed", "diverged") else 1)


WRITERS: Mapping[Tracker, Any] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}


def prepare(names: Iterable[Tracker], folder: Path, experiment: str) -> None:
    """Make MLflow's experiment once, before workers would make it twice; its failure is for them to tell."""
    if "mlflow" in names:
        with suppress(Exception):
            _mlflow_experiment(_mlflow_client(folder)[0], experiment)


def _mlflow_client(folder: Path) -> tuple[Any, str]:
    """The client, and a name of the place it writes to that gives no credentials away."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").as_uri()
    if uri.startswith(("file:", "/", ".")):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri), without_secrets(uri)


def _mlflow_experiment(client: Any, name: str) -> str:
    """The id of the experiment of that name, made where there is none."""
    from mlflow.exceptions import MlflowException

    if known := client.get_experiment_by_name(name):
        return str(known.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        known = client.get_experiment_by_name(name)  # another worker was quicker
        if known is None:
            raise
        return str(known.experiment_id)


def _earlier_rows(folder: Path) -> list[Row]:
    try:
        return [{**row} for row in TrialFolder(folder).read_metrics()]
    except CorruptFile:
        return []


def _complain(folder: Path, name: str, error: Exception) -> None:
    text = without_secrets(" ".join(str(error).split()))[:500]
    with suppress(OSError), (folder / COMPLAINTS).open("a", encoding="utf-8") as file:
        file.write(f"{name}: {type(error).__name__}: {text}\n")  # a full storage is the trial's to tell


@with_config(ConfigDict(extra="allow"))
class State(TypedDict):
    """What one tracker's part of trackers.json holds, beside what is its own."""

    logged: NotRequired[dict[str, Whole]]
    """Split -> the last step that it has."""
    run_id: NotRequired[str]


STATES = TypeAdapter(dict[str, State])


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    try:
        return read_object(path, STATES)
    except FileNotFoundError:
        return {}
    except CorruptFile as error:
        _complain(folder, "trackers", error)
        return {}


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    part = folder / (STATE + ".part")
    try:
        part.write_text(json.dumps(state), encoding="utf-8")
        os.replace(part, folder / STATE)
    except OSError as error:
        _complain(folder, "trackers", error)
