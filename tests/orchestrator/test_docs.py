"""What the docs hand to a user: an experiment file with every field, and scripts that a shell takes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.sections import Analysis, Resources
from orchestrator.spec import ExperimentSpec, load_spec, set_value, spec_from
from orchestrator.trials import make_plan
from orchestrator.wording import TRIAL
from orchestrator.yaml_text import parse
from tests.fakes import experiment
from tests.orchestrator.faults import wait_until
from trainables.config import DistillConfig

ROOT = Path(__file__).resolve().parents[2]
FILE, SLURM = ROOT / "docs/experiment.yaml", ROOT / "deploy/slurm.sh"
LINE = re.compile(r"^ *(?:# )?(\w+): ?(.*?) {2,}# (.+)$", re.MULTILINE)
TOLD = {name: comment for name, _, comment in LINE.findall(FILE.read_text())}
"""Field -> its comment."""


def defaults() -> dict[str, Any]:
    """Every field that may be left out, with what then holds."""
    sections = (model.model_fields for model in (ExperimentSpec, Analysis, Resources))
    found = {
        name: field.default
        for fields in sections
        for name, field in fields.items()
        if not field.is_required()
    }
    trial = DistillConfig().to_dict()
    return {**{name: trial[name] for name in TRIAL}, **found}


INSTEAD = ("base", "grid", "resources")
"""Sections whose fields have lines of their own."""


def test_the_commented_experiment_is_a_plan() -> None:
    plan = make_plan(load_spec(str(FILE)))

    assert len(plan.cells) == 2 * 2 * 8


@pytest.mark.parametrize("name", sorted(set(defaults()) - set(INSTEAD)))
def test_the_commented_experiment_has_every_field_and_what_holds_without_it(name: str) -> None:
    said = TOLD[name].rpartition("left out: ")[2]

    assert parse(said, name) == defaults()[name]


@pytest.mark.parametrize("name", ["name", "seeds", "baseline"])
def test_what_must_be_given_has_no_default_in_the_commented_experiment(name: str) -> None:
    assert "left out" not in TOLD[name]


def test_the_commented_experiment_names_no_field_that_is_not() -> None:
    known = {*defaults(), *ExperimentSpec.model_fields, "baseline"}

    assert set(TOLD) <= known
    assert set(yaml.safe_load(FILE.read_text())) == set(ExperimentSpec.model_fields)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXPERIMENTS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    )
    if re.search("^arms:", block, re.MULTILINE)
]


@pytest.mark.parametrize("block", EXPERIMENTS)
def test_every_experiment_that_the_docs_show_is_a_plan(block: str) -> None:
    given = parse(block, "docs")

    assert make_plan(spec_from({**experiment(), **given}, "docs")).cells


def test_every_change_that_the_docs_show_can_be_made() -> None:
    values = experiment()
    shown = re.findall(r"--set ((?:[\w.]+=[^\s`)]+ ?)+)", " ".join(page.read_text() for page in PAGES))

    assert shown
    for change in " ".join(shown).replace("...", "other").split():
        set_value(values, change)


KVTUNE = """#!/bin/bash
trap 'exit 130' TERM
echo "$@" > "$HOME/arguments"
[ "$2" = quick ] && exit 3
for _ in {1..200}; do sleep 0.05; done
"""


def sbatch(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """The script as Slurm starts it, with a kvtune and a scontrol that only tell of themselves."""
    tools = home / "venv/bin"
    tools.mkdir(parents=True)
    (tools / "activate").write_text(f'PATH="{tools}:$PATH"\n')
    for name, text in {"kvtune": KVTUNE, "scontrol": '#!/bin/bash\necho "$@" >> "$HOME/scontrol"\n'}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    variables = {**os.environ, "HOME": str(home), "KVTUNE_VENV": str(home / "venv"), "SLURM_JOB_ID": "17"}
    return subprocess.Popen(["bash", str(SLURM), *arguments], env=variables, text=True)


in_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@in_bash
@pytest.mark.parametrize(
    ("number", "requeued"),
    [(signal.SIGUSR1, "requeue 17"), (signal.SIGTERM, "")],
    ids=["time", "scancel"],
)
def test_the_slurm_script_ends_the_run_and_comes_again_only_when_time_was_up(
    tmp_path: Path, number: int, requeued: str
) -> None:
    job = sbatch(tmp_path, "mine.yaml")
    wait_until(lambda: (tmp_path / "arguments").exists() and (tmp_path / "arguments").read_text())

    job.send_signal(number)

    assert job.wait(30) == 130
    told = tmp_path / "scontrol"
    assert (told.read_text().strip() if told.exists() else "") == requeued
    assert (tmp_path / "arguments").read_text().split() == [
        "run", "mine.yaml", "--storage", f"{tmp_path}/kvtune-runs",
    ]  # fmt: skip


@in_bash
def test_the_slurm_script_hands_on_the_exit_code(tmp_path: Path) -> None:
    assert sbatch(tmp_path, "quick").wait(30) == 3
