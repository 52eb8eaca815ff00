"""The teacher run once for a whole run: budget, sharing, and Ray's tasks against this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.launch import run
from orchestrator.spec import ExperimentSpec, Resources, spec_from
from orchestrator.teacher_tasks import FOLDER, Budget, Teachers, provide
from orchestrator.trials import make_plan
from tests.fakes import experiment
from tests.ragged import ragged_fields
from trainables import builtin_teacher, teaching
from trainables.builtin_teacher import Recipe, Schooling, ensure_teacher, locate
from trainables.config import DistillConfig, InputError
from trainables.data import load_examples
from trainables.distill import distill
from trainables.models import Size
from trainables.trial_folder import TrialFolder


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ragged_fields(tmp_path_factory.mktemp("ragged"))


def spec_of(ragged: dict[str, Any], **changes: Any) -> ExperimentSpec:
    base = {
        **ragged,
        "student": "same_sequence",
        "kv_method": "rkv",
        "target_len": 4,
        "batch_size": 16,
        "max_steps": 9,
        "logging_steps": 1,
        "eval_steps": 5,
    }
    values = experiment(base=base, seeds=[0], trackers=[], resources={"max_failures": 0})
    return spec_from({**values, **changes}, "test")


def provided(
    spec: ExperimentSpec, storage: Path, told: list[str], budget: Budget = "auto", *, on_ray: bool = False
) -> Teachers:
    cells = make_plan(spec).cells
    return provide(
        cells,
        storage,
        budget,
        Resources(),
        ask=(lambda f, *given: f(*given)) if on_ray else None,
        tell=told.append,
    )


def test_a_run_asks_the_teacher_once_and_its_trials_end_as_without_a_cache(
    place: Path, ragged: dict[str, Any]
) -> None:
    spec = spec_of(
        ragged, arms={"flat": {"alignment_mode": "flat"}, "ce": {"kv_weight": 0, "codi_weight": 0}}
    )

    summary = run(spec, storage=place, address="serial")

    assert summary.exit_code == 0
    (cache,) = (folder for folder in (place / FOLDER).iterdir())
    for folder in (summary.folder / "trials").iterdir():
        written = json.loads((folder / "config.json").read_text())
        assert written["teacher_cache"] == str(cache)
        again = place / "without" / folder.name
        distill(
            DistillConfig.from_dict({**written, "teacher_cache": None, "output_dir": str(again)}),
            lambda row: None,
        )
        assert rows(folder) == rows(again)


def rows(folder: Path) -> list[Any]:
    return [(row["step"], row["split"], row["metrics"]) for row in TrialFolder(folder).read_metrics()]


def test_experiments_of_one_storage_share_a_cache(tmp_path: Path, ragged: dict[str, Any]) -> None:
    first, second = [], []
    made = provided(spec_of(ragged), tmp_path, first)

    found = provided(spec_of(ragged, name="another", seeds=[5, 6]), tmp_path, second)

    assert set(made.caches.values()) == set(found.caches.values())
    assert len(made.caches) == 2
    assert len(found.caches) == 4
    assert "computed in" in first[-1]
    assert [line for line in second if "rows: found, " in line] == second


def test_a_damaged_shard_is_made_again_by_the_next_launch(tmp_path: Path, ragged: dict[str, Any]) -> None:
    (folder,) = {Path(path) for path in provided(spec_of(ragged), tmp_path, []).caches.values()}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")

    told: list[str] = []
    provided(spec_of(ragged), tmp_path, told)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "computed in" in told[-1]


def test_more_than_the_budget_is_computed_on_the_fly_and_said(tmp_path: Path, ragged: dict[str, Any]) -> None:
    told: list[str] = []

    teachers = provided(spec_of(ragged), tmp_path, told, budget=1e-6)

    assert teachers.caches == {}
    assert len(told) == 1
    assert " KiB, 1.05 KiB are left for it (set teacher_cache: 0.01" in told[0]
    assert not list((tmp_path / FOLDER).glob("*/index.json"))


def test_auto_makes_no_cache_that_would_save_nothing(tmp_path: Path, ragged: dict[str, Any]) -> None:
    told: list[str] = []

    assert provided(spec_of(ragged, grid={"max_steps": [1, 2]}), tmp_path, told).caches == {}
    assert told == [
        "no teacher cache, the teacher runs in every step: the trials read 96 rows, a cache would hold 55"
    ]


def test_off_makes_none(tmp_path: Path, ragged: dict[str, Any]) -> None:
    told: list[str] = []

    assert provided(spec_of(ragged), tmp_path, told, budget="off") == Teachers({})
    assert told == []
    assert not (tmp_path / FOLDER).exists()


def test_arms_of_other_selections_have_caches_of_their_own_and_random_ones_none(
    tmp_path: Path, ragged: dict[str, Any]
) -> None:
    spec = spec_of(
        ragged,
        arms={
            "flat": {"alignment_mode": "flat"},
            "shuffled": {"shuffle_teacher": True},
            "crop": {"kv_method": "right_crop"},
            "random": {"kv_method": "random"},
        },
    )

    caches = provided(spec, tmp_path, []).caches

    by_arm = {cell.arm: caches.get(cell.trial_id) for cell in make_plan(spec).cells}
    assert by_arm["flat"] == by_arm["shuffled"] != by_arm["crop"]
    assert by_arm["random"] is None


def test_a_cache_that_cannot_be_made_stops_no_run(
    tmp_path: Path, ragged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(teaching, "make_parts", fail)
    told: list[str] = []

    assert provided(spec_of(ragged), tmp_path, told).caches == {}
    assert "No space left on device): the teacher runs in every step" in told[-1]


@pytest.mark.slow
@pytest.mark.ray
def test_ray_tasks_write_the_same_bytes_as_this_process(
    place: Path, ray_here: None, ragged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.teacher_tasks.SMALL_BYTES", 0)
    told: list[str] = []
    for name in ("ray", "serial"):
        (place / name).mkdir()

    on_ray = provided(spec_of(ragged), place / "ray", told, on_ray=True)
    serial = provided(spec_of(ragged), place / "serial", told)

    (ours,), (theirs,) = ({Path(path) for path in made.caches.values()} for made in (on_ray, serial))
    assert ours.name == theirs.name
    assert {path.name: path.read_bytes() for path in ours.iterdir()} == {
        path.name: path.read_bytes() for path in theirs.iterdir()
    }


def test_a_teacher_trained_for_the_run_lies_where_every_node_finds_it(
    tmp_path: Path, ragged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Recipe(
        size=Size(layers=1, width=16, heads=2, kv_heads=2), steps=1, batch_size=2, lr=1e-3, warmup_steps=1
    )
    monkeypatch.setitem(builtin_teacher.RECIPES, "gsm8k", tiny)
    monkeypatch.setenv("KVTUNE_CACHE", str(tmp_path / "this-machine"))
    spec = spec_of({**ragged, "model_name": "tiny-llama", "teacher_name": "tiny-teacher"})
    config = make_plan(spec).cells[0].config
    ensure_teacher(config, lambda line: None)

    teachers = provided(spec, tmp_path, [], budget="off")

    assert teachers.builtin == str(tmp_path / FOLDER / "builtin")
    monkeypatch.setenv("KVTUNE_CACHE", teachers.builtin)
    found = locate(Schooling.of(config, load_examples(config)))
    assert found is not None
    assert found.parent == Path(teachers.builtin)


def test_a_built_in_experiments_packaged_teacher_is_not_copied(tmp_path: Path) -> None:
    assert provided(spec_from(experiment(), "test"), tmp_path, [], budget="off").builtin is None


@pytest.mark.parametrize("given", [True, 0, -1, "large", "inf", [1]])
def test_a_budget_that_is_none_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="teacher_cache is auto, off, or a number of GiB from"):
        spec_from(experiment(teacher_cache=given), "test")


def test_the_cache_of_a_trial_is_the_runs_to_choose() -> None:
    values = experiment()
    values["base"]["teacher_cache"] = "somewhere"

    with pytest.raises(InputError, match="set teacher_cache at the top of the experiment"):
        make_plan(spec_from(values, "test"))


def test_the_budget_is_no_part_of_the_plan() -> None:
    plans = [
        make_plan(spec_from(experiment(teacher_cache=given), "test")).to_dict()
        for given in ("off", 2, "auto")
    ]

    assert plans[0] == plans[1] == plans[2]
