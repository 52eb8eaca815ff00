"""What was trained, by whom, on what, or which records were read: the facts of an experiment, named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from analysis.plan import Imported
from analysis.records import Experiment
from analysis.sentences import plural

Fields = Mapping[str, Any]
"""One arm's configuration with its defaults filled in, as plan.json's `setup` has it."""

WEAK = 0.5
"""Share of held-out problems that a teacher should solve; below it most of its own answers are wrong."""
READS = {
    "latent": "reasons in latent tokens",
    "same_sequence": "reads the chain of thought itself",
}


def setup_of(experiment: Experiment) -> dict[str, str]:
    """Name -> fact, in the order of reading; what differs names its arms. Empty where nothing is known."""
    imported = experiment.plan.imported
    if imported is not None:
        return dict(_records(experiment, imported))
    return {name: text for name, fact in FACTS.items() if (text := _over_arms(experiment, fact))}


def _over_arms(experiment: Experiment, fact: Callable[[Fields, Experiment], str]) -> str:
    """One text where all arms agree, else each with the arms that it holds for."""
    arms: dict[str, list[str]] = {}
    for arm, fields in experiment.plan.setup.items():
        arms.setdefault(_told(fact, fields, experiment), []).append(arm)
    if len(arms) < 2:
        return next(iter(arms), "")
    return "; ".join(f"{text or 'unknown'} ({', '.join(names)})" for text, names in arms.items())


def _told(fact: Callable[[Fields, Experiment], str], fields: Fields, experiment: Experiment) -> str:
    """The fact's text; empty where the plan was written before a field of it was."""
    try:
        return fact(fields, experiment)
    except KeyError:
        return ""


def solved_by_teacher(fields: Fields, provenance: Mapping[str, Any]) -> float | None:
    """Share of held-out problems that the arm's teacher solves itself; None where no launch measured it."""
    for launch in [provenance, *reversed(_objects(provenance.get("earlier_launches")))]:
        for record in _objects(launch.get("teachers")):
            known = [name for name in record if name != "accuracy"]
            solved = record.get("accuracy")
            if isinstance(solved, float | int) and all(fields.get(name) == record[name] for name in known):
                return float(solved)
    return None


def _objects(listed: Any) -> list[Mapping[str, Any]]:
    """The objects of a list in a file that people may have edited."""
    return [found for found in listed if isinstance(found, Mapping)] if isinstance(listed, list) else []


def weak_teachers(experiment: Experiment) -> dict[str, float]:
    """Teacher -> share of held-out problems it solves, of those that some arm learns from and that is low."""
    found = {
        _leaf(str(fields.get("teacher"))): solved_by_teacher(fields, experiment.provenance)
        for fields in experiment.plan.setup.values()
        if _teaches(fields)
    }
    return {teacher: solved for teacher, solved in found.items() if solved is not None and solved < WEAK}


def _teaches(fields: Fields) -> bool:
    """Whether any loss of the arm follows from its teacher."""
    return bool(fields.get("kv_weight") or fields.get("codi_weight")) or fields.get("teacher") == "self"


def _teacher(fields: Fields, experiment: Experiment) -> str:
    if not _teaches(fields):
        return "none: neither loss that needs one has weight"
    if fields["teacher"] == "self":
        return "the student itself, with the same weights"
    name = f"{_leaf(fields['teacher'])}, frozen"
    if fields["teacher"] == fields["model_name"]:
        name = f"a frozen copy of {_leaf(fields['teacher'])}"
    solved = solved_by_teacher(fields, experiment.provenance)
    skill = "not on record" if solved is None else f"{100 * solved:.1f} % of held-out problems solved"
    return f"{name} (its own accuracy: {skill})"


def _student(fields: Fields, experiment: Experiment) -> str:
    return f"{_leaf(fields['model_name'])}, which {READS.get(fields['student'], fields['student'])}"


def _data(fields: Fields, experiment: Experiment) -> str:
    files = [_leaf(fields[name]) for name in ("train_file", "eval_file") if fields.get(name)]
    return " from ".join([fields["dataset"], *([" and ".join(files)] if files else [])])


def _rows(fields: Fields, experiment: Experiment) -> str:
    size = fields["subset_size"]
    held_out = _held_out(fields["eval_size"], experiment)
    return f"{'all' if size is None else f'{size:,}'} for training, {held_out} held out"


def _held_out(asked: int, experiment: Experiment) -> str:
    """As many as were answered: a small file has fewer rows than were asked for."""
    items = experiment.items
    if items is None or items.empty:
        return f"up to {asked:,}"
    return f"{min(asked, int(items['trial_id'].value_counts().max())):,}"


def _batch(fields: Fields, experiment: Experiment) -> str:
    parts = fields["gradient_accumulation_steps"]
    text = f"{fields['batch_size']} rows"
    return text if parts == 1 else f"{parts} micro-batches of {text}"


def _steps(fields: Fields, experiment: Experiment) -> str:
    if fields["max_steps"] is not None:
        return f"{fields['max_steps']:,}"
    passes = f"{fields['epochs']:g} passes over the training rows"
    planned = experiment.runs["planned_steps"].dropna().unique()
    return f"{planned[0]:,.0f} ({passes})" if len(planned) == 1 else passes


def _rate(fields: Fields, experiment: Experiment) -> str:
    warm = f" after {fields['warmup_steps']:,} steps of warm-up" if fields["warmup_steps"] else ""
    own = f"; aligner {fields['aligner_lr']:g}" if fields.get("aligner_lr") is not None else ""
    return f"{fields['lr']:g}, {fields['lr_schedule']}{warm}{own}"


def _selection(fields: Fields, experiment: Experiment) -> str:
    if fields["kv_method"] == "full":
        return "full: every entry of the chain of thought"
    return f"{fields['kv_method']}, {fields['target_len']} entries of the chain of thought"


def _losses(fields: Fields, experiment: Experiment) -> str:
    shuffled = ", of another row's cache (control)" if fields.get("shuffle_teacher") else ""
    parts = [f"{fields['kv_weight']:g} KV ({fields['kv_loss']}{shuffled})", f"{fields['codi_weight']:g} CODI"]
    kept = [part for part in parts if not part.startswith("0 ")]
    return " + ".join(["CE", *kept])


def _precision(fields: Fields, experiment: Experiment) -> str:
    return str(fields["dtype"])


FACTS: Mapping[str, Callable[[Fields, Experiment], str]] = {
    "student": _student,
    "teacher": _teacher,
    "data set": _data,
    "rows": _rows,
    "batch": _batch,
    "optimizer steps": _steps,
    "learning rate": _rate,
    "selection": _selection,
    "loss": _losses,
    "precision": _precision,
}
"""Name -> what the configuration says of it; to add one, add its function."""


def _leaf(name: str) -> str:
    """The last part of a local path; a name of the hub as it is."""
    return PurePath(name).name if PurePath(name).is_absolute() else str(name)


def _records(experiment: Experiment, imported: Imported) -> Iterator[tuple[str, str]]:
    """What is known of runs that were made elsewhere."""
    files = experiment.provenance.get("files")
    count = f", {plural(len(files), 'path')} given" if isinstance(files, list) else ""
    yield "records", f"{imported.source}{count}"
    left = f", not counting {len(imported.ignored)} left out" if imported.ignored else ""
    yield "runs read", f"{imported.runs}{left}"
    yield "metrics", ", ".join(_metrics(experiment))
    planned = experiment.runs["planned_steps"].dropna().unique()
    if len(planned):
        yield "planned steps", " or ".join(f"{step:,.0f}" for step in sorted(planned))
    if imported.step is None:
        yield "steps", "none on record: final values alone"
    elif len(experiment.metrics):
        yield "steps", f"by {imported.step}, the last on record {experiment.metrics['step'].max():,}"


def _metrics(experiment: Experiment) -> list[str]:
    """Every metric read, with the column of the records that it stood in where that was kept."""
    columns = experiment.provenance.get("metrics")
    known = columns if isinstance(columns, Mapping) else {}
    names = map(str, experiment.metrics["metric"].cat.remove_unused_categories().cat.categories)
    return [f"{name} (column {known[name]})" if name in known else name for name in names]
