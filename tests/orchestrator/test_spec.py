"""The experiment file at the door: what is read, and what is refused in one sentence."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec import builtin_experiments, load_spec, parse_seeds, set_value, spec_from
from orchestrator.trials import Plan, make_plan
from orchestrator.yaml_text import parse
from tests.fakes import experiment, write_experiment
from trainables.config import LEAST, InputError

REFUSED = [
    ("base.lr=fast", ["base.lr", "number", "'fast'"]),
    ("base.lr='5e-5'", ["base.lr", "number"]),
    ("base.lr=true", ["base.lr", "number"]),
    ("base.lr=.inf", ["base.lr", "finite"]),
    ("base.lr=-1", ["arm 'flat'", "--lr"]),
    ("base.epcohs=3", ["base", "'epcohs'", "Did you mean 'epochs'?"]),
    ("base.subset_size=1.5", ["base.subset_size", "integer"]),
    ("base.kv_method=rvk", ["arm 'flat'", "Did you mean 'rkv'?"]),
    ("base.model_name=[a]", ["base.model_name", "string"]),
    ("base.seed=3", ["base.seed", "seeds"]),
    ("base.threads=3", ["base.threads", "resources.cpus"]),
    ("base.output_dir=x", ["base.output_dir", "--storage"]),
    ("base.device=cuda", ["arm 'flat'", "resources.gpus"]),
    ("base=[1]", ["base", "dictionary"]),
    ("base.lr=&a [*a]", ["base.lr"]),
    ("arms={only: {}}", ["arms", "2"]),
    ("arms=3", ["arms"]),
    ("arms.flat={alignment_mode: flatt}", ["arm 'flat'", "Did you mean 'flat'?"]),
    ("arms.flat.map_proj_share_dim=true", ["arm 'flat'", "--map_proj_share_dim", "no effect"]),
    ("arms.structured={alignment_mode: flat}", ["'flat'", "'structured'", "same configuration"]),
    ("arms={../../x: {}, flat: {alignment_mode: flat}}", ["'../../x'", "name a folder"]),
    ("grid={lr: []}", ["grid.lr", "no values"]),
    ("grid={lr: [1, 1.0]}", ["grid.lr", "twice"]),
    ("grid={lr: 3}", ["grid.lr", "list"]),
    ("grid={alignment_mode: [flat]}", ["grid", "arms.flat"]),
    ("seeds=[]", ["seeds"]),
    ("seeds=[1, 1]", ["seeds", "twice"]),
    ("seeds=[-1]", ["seeds", "0"]),
    ("seeds=[1.5]", ["seeds", "integer"]),
    ("seeds=3-1", ["seeds", "'3-1'"]),
    ("seeds=many", ["seeds", "'many'"]),
    ("seeds='" + ",".join(["0-9999"] * 9) + "'", ["seeds", "'0-9999'", "10000"]),
    ("analysis.baseline=flta", ["baseline", "Did you mean 'flat'?"]),
    ("analysis.baselin=flat", ["analysis", "Did you mean 'baseline'?"]),
    ("analysis.primary=kv_loss", ["primary", "'kv_loss'", "eval_ce"]),
    ("analysis.secondary=[eval_acuracy]", ["secondary", "Did you mean 'eval_accuracy'?"]),
    ("analysis.direction=max", ["direction", "eval_ce", "min"]),
    ("analysis.margin=.nan", ["analysis.margin", "finite"]),
    ("analysis.margin=0", ["analysis.margin", "0.000000001"]),
    ("analysis.margin=1e300", ["analysis.margin", "1e+300", "less than or equal to 1000000000"]),
    ("analysis.sesoi=1e-300", ["analysis.sesoi", "1e-300", "0.000000001"]),
    ("analysis.alpha=1e-300", ["analysis.alpha", "1e-300", "0.000001"]),
    (f"analysis.k={10**30}", ["analysis.k", "9999"]),
    (f"analysis.smoothing={10**30}", ["analysis.smoothing", "9999"]),
    (f"analysis.looks=[{10**30}]", ["analysis.looks", "10000"]),
    ("analysis.looks=[1e30]", ["analysis.looks", "1e+30", "integer"]),
    (f"analysis.secondary={['eval_accuracy'] * 2}", ["'eval_accuracy'", "leave one of them out"]),
    (f"analysis.secondary={['eval_accuracy'] * 1000}", ["analysis.secondary", "at most 100 items"]),
    ("analysis.alpha=1", ["analysis.alpha", "less than 1"]),
    ("analysis={}", ["baseline", "missing"]),
    ("analysis.mode=a/a", ["analysis.mode", "'aa'"]),
    ("analysis.mode=aa", ["'flat'", "'structured'", "alignment_mode", "analysis.mode"]),
    ("analysis.looks=[]", ["looks", "[8, 12]"]),
    ("analysis.looks=[2, 1]", ["looks", "rise", "[2, 1]"]),
    ("analysis.looks=[2, 2]", ["looks", "rise"]),
    ("analysis.looks=[0, 2]", ["looks", "[0, 2]"]),
    ("analysis.looks=[1.5]", ["analysis.looks", "integer"]),
    ("analysis.looks=[1]", ["analysis.looks", "ends at 1", "2 seeds"]),
    ("arms.flat.seed_offset=1000", ["arms.flat.seed_offset", "analysis.mode: aa"]),
    ("resources.cpus=0", ["resources.cpus", "1"]),
    ("resources.cpu=1", ["resources", "Did you mean 'cpus'?"]),
    ("resources.gpus=-1", ["resources.gpus", "-1", "0 GPUs, 1, or a fraction of one from 0.01"]),
    ("resources.gpus=1e-300", ["resources.gpus", "1e-300", "from 0.01"]),
    ("resources.gpus=2", ["resources.gpus", "got 2", "no trial can use a second GPU"]),
    ("resources.cpus=1000000", ["resources.cpus", "1000000", "4096"]),
    ("resources.memory_gib=1e-300", ["resources.memory_gib", "1e-300", "0.1"]),
    ("resources.time_limit_s=1e-9", ["resources.time_limit_s", "1e-09", "0.1"]),
    ("teacher_cache=1e308", ["teacher_cache", "1e+308", "1,000,000"]),
    ("teacher_cache=1e-300", ["teacher_cache", "1e-300", "0.001"]),
    (f"trackers={['mlflow'] * 1000}", ["trackers", "mlflow is listed twice"]),
    *(
        (f"base.{name}={10**30}", ["arm 'flat'", f"--{name} must be at most"])
        for name in sorted(LEAST.keys() - {"seed", "threads", "flat_rank"})
    ),
    ("base.epochs=1e300", ["--epochs", "at most 1,000,000,000", "1e+300"]),
    ("base.lr=1e300", ["--lr", "at most 1,000,000,000", "1e+300"]),
    ("name=../x", ["'../x'", "name a folder"]),
    ("name=.hidden", ["'.hidden'", "name a folder"]),
    ("name=3", ["name", "string"]),
    ("nmae=x", ["Did you mean 'name'?"]),
    ("base.lr", ["--set", "field=value"]),
    ("base.lr=[", ["--set base.lr", "YAML"]),
    ("=3", ["--set", "field=value"]),
]


def plan_with(change: str) -> Plan:
    """The plan of the fakes' experiment after one --set."""
    values = experiment()
    set_value(values, change)
    return make_plan(spec_from(values, "file.yaml"))


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_bad_input_is_one_sentence_that_names_the_field(change: str, said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        plan_with(change)

    message = str(caught.value)
    assert all(words in message for words in said), message
    assert "\n" not in message


FILES = [
    ("a: [", "YAML"),
    ("a: 1\na: 2", "'a' is given twice"),
    ("1: 2", "not text"),
    ("- 1", "fields and values"),
    ("", "fields and values"),
    ("!!python/object/apply:os.system ['true']", "YAML"),
    ("[" * 5000, "cannot be read"),
    ("a: \x00", "YAML"),
]


@pytest.mark.parametrize(("text", "said"), FILES)
def test_a_malformed_file_is_one_sentence_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)

    with pytest.raises(InputError, match=r"bad\.yaml") as caught:
        load_spec(str(path))

    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.yaml", "/", "/dev/null", "\0", "x" * 5000, ""])
def test_a_file_that_cannot_be_read_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError):
        load_spec(name)


def test_an_unknown_experiment_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match="Did you mean 'quickstart'"):
        load_spec("quickstrat")


def test_a_file_of_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InputError, match="UTF-8"):
        load_spec(str(path))


@pytest.mark.parametrize("name", builtin_experiments())
def test_every_built_in_experiment_makes_a_plan(name: str) -> None:
    plan = make_plan(load_spec(name))

    assert plan.spec.name == name
    assert len(plan.cells) == len(plan.labels) * len(plan.spec.seeds)


def test_the_a_b_of_gate_3_has_the_numbers_of_the_card() -> None:
    config = make_plan(load_spec("ab")).cells[0].config

    assert (config.model_name, config.dataset) == ("gpt2", "gsm8k")
    assert (config.subset_size, config.batch_size, config.epochs, config.lr) == (1000, 8, 3.0, 5e-5)


def test_numbers_are_read_as_people_write_them() -> None:
    values = parse("a: 5e-5\nb: no\nc: 1:30\nd: 010\ne: '5'\nf: [1., .5, -2, true, null]", "file")

    assert values == {"a": 5e-5, "b": "no", "c": "1:30", "d": 10, "e": "5", "f": [1.0, 0.5, -2, True, None]}


def test_a_whole_number_and_its_float_are_one_configuration() -> None:
    whole, real = experiment(), experiment()
    set_value(whole, "base.epochs=3")
    set_value(real, "base.epochs=3.0")

    plans = [make_plan(spec_from(values, "file")).to_dict()["plan_hash"] for values in (whole, real)]

    assert plans[0] == plans[1]


def test_a_resolved_experiment_reads_back_as_itself(tmp_path: Path) -> None:
    spec = load_spec("ablation")
    path = tmp_path / "experiment.yaml"
    path.write_text(spec.to_yaml())

    assert load_spec(str(path)) == spec


def test_changes_reach_arms_whose_names_hold_dots() -> None:
    values: dict[str, Any] = experiment(
        arms={"v1.5": {"lr": 1e-3}, "v2": {"lr": 2e-3}}, analysis={"baseline": "v2"}
    )

    set_value(values, "arms.v1.5.lr=3e-3")
    set_value(values, "arms.new.one={lr: 4e-3}")

    assert values["arms"]["v1.5"] == {"lr": 3e-3}
    assert values["arms"]["new.one"] == {"lr": 4e-3}


def test_an_arm_may_change_nothing_in_the_base(tmp_path: Path) -> None:
    text = write_experiment(tmp_path, arms={"plain": None, "flat": {"alignment_mode": "flat"}}).read_text()
    (tmp_path / "experiment.yaml").write_text(text.replace('"baseline": "flat"', '"baseline": "plain"'))

    assert load_spec(str(tmp_path / "experiment.yaml")).arms["plain"] == {}


def test_a_relative_file_is_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = experiment(base={"model_name": "tiny-gpt2", "dataset": "gsm8k", "train_file": "rows.jsonl"})

    config = make_plan(spec_from(values, "file")).cells[0].config

    assert config.train_file == str(tmp_path / "rows.jsonl")
    assert config.model_name == "tiny-gpt2"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=5))
def test_seed_ranges_list_every_seed_between_their_ends(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)

    assert parse_seeds(text) == [seed for first, more in ranges for seed in range(first, first + more + 1)]


@given(st.text(max_size=30))
def test_any_text_in_place_of_seeds_is_seeds_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        assert all(seed >= 0 for seed in parse_seeds(text))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["name", "base", "arms", "grid", "seeds", "analysis", "resources"]),
)
def test_any_value_in_any_section_is_a_plan_or_an_input_error(value: Any, section: str) -> None:
    with contextlib.suppress(InputError):
        assert make_plan(spec_from(experiment(**{section: value}), "file.yaml")).cells


def test_a_secondary_endpoint_may_say_how_its_curve_is_read() -> None:
    names = ["eval_ce@auc", "eval_ce@last_5_mean", "eval_accuracy", "steps_to_90", "tokens_to_50"]

    spec = spec_from(experiment(analysis={"baseline": "flat", "secondary": names}), "file.yaml")

    assert spec.analysis.to_plan()["secondary"] == names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("eval_ec@auc", "Did you mean 'eval_ce'?"),
        ("eval_ce@acu", "Did you mean 'auc'?"),
        ("steps_to_90@auc", "steps_to_90 is one number already"),
        ("kv_loss@auc", "each arm's KV target is its own projection"),
        ("eval_ce@final", "asks the same as the primary endpoint"),
        ("eval_ce", "asks the same as the primary endpoint"),
    ],
)
def test_a_secondary_endpoint_that_cannot_be_is_refused_with_a_way_out(name: str, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        spec_from(experiment(analysis={"baseline": "flat", "secondary": [name]}), "file.yaml")


AA = {
    "arms": {"one": {"alignment_mode": "flat"}, "two": {"alignment_mode": "flat"}},
    "analysis": {"baseline": "one", "mode": "aa"},
}


def test_an_a_a_experiment_runs_one_configuration_in_two_arms() -> None:
    plan = make_plan(spec_from(experiment(**AA), "file"))

    cells = {(cell.arm, cell.seed): cell for cell in plan.cells}
    assert cells["one", 0].config == cells["two", 0].config
    assert cells["one", 0].trial_id != cells["two", 0].trial_id
    assert plan.to_dict()["analysis"]["mode"] == "aa"


def test_a_seed_offset_moves_an_arms_seeds_and_not_its_blocks() -> None:
    arms = {"one": {"alignment_mode": "flat"}, "two": {"alignment_mode": "flat", "seed_offset": 1000}}
    plan = make_plan(spec_from(experiment(**{**AA, "arms": arms}), "file"))

    assert [(cell.arm, cell.seed, cell.config.seed) for cell in plan.cells] == [
        ("one", 0, 0), ("two", 0, 1000), ("one", 1, 1), ("two", 1, 1001),
    ]  # fmt: skip
    assert plan.to_dict()["arms"]["two"] == {"alignment_mode": "flat", "seed_offset": 1000}
    assert plan.declared_factors == ["alignment_mode"]


@pytest.mark.parametrize("offset", [1, -1, 2**31, True, "1000", None, 0.5])
def test_a_seed_offset_that_cannot_pair_is_refused(offset: Any) -> None:
    arms = {"one": {"alignment_mode": "flat"}, "two": {"alignment_mode": "flat", "seed_offset": offset}}

    with pytest.raises(InputError, match=r"arms\.two\.seed_offset"):
        make_plan(spec_from(experiment(**{**AA, "arms": arms}), "file"))


def test_a_plan_tells_the_grid_and_where_every_arm_stands_in_it() -> None:
    grid = {"lr": [1, 2e-3]}
    plan = make_plan(spec_from(experiment(grid=grid), "file")).to_dict()

    assert plan["grid"] == {"lr": [1.0, 0.002]}
    assert plan["labels"]["flat,lr=0.002"] == {"arm": "flat", "point": {"lr": 0.002}}
    assert list(plan["labels"]) == list(plan["arms"])


def test_looks_may_lie_beyond_the_seeds_planned_so_far() -> None:
    analysis = {"baseline": "flat", "looks": [8, 10, 12]}

    assert make_plan(spec_from(experiment(analysis=analysis), "file")).to_dict()["analysis"]["looks"] == [
        8,
        10,
        12,
    ]


@pytest.mark.parametrize(
    ("given", "looks", "said"),
    [
        ({}, [6, 12], ["[6, 12]", "a look at 6 pairs", "0.05 / 2 looks = 0.025", "0.031", "[7, 12]"]),
        ({}, [5], ["a look at 5 pairs", "0.05 / 1 look = 0.05", "At least 6 pairs", "[6]"]),
        ({"alpha": 0.01}, [7, 8, 12], ["a look at 7 pairs", "At least 10 pairs", "[10, 12]"]),
        ({"arms": 4}, [7, 12], ["0.05 / 2 looks / 3 contrasts", "At least 8 pairs"]),
        ({"grid": {"lr": [1e-3, 2e-3, 3e-3]}}, [7, 12], ["0.05 / 2 looks / 3 contrasts", "[8, 12]"]),
    ],
)
def test_a_look_that_could_never_claim_is_refused_with_the_least_that_can(given, looks, said) -> None:
    given = dict(given)
    arms = {f"arm{k}": {"target_len": 2 + k} for k in range(given.pop("arms", 2))}
    analysis = {"baseline": "arm0", "looks": looks, "alpha": given.pop("alpha", 0.05)}

    with pytest.raises(InputError) as error:
        spec_from(experiment(arms=arms, analysis=analysis, **given), "mine.yaml")

    assert all(word in str(error.value) for word in ("mine.yaml: analysis.looks", *said)), error.value
    better = [int(look) for look in re.search(r"looks: \[(.*)\]", str(error.value))[1].split(",")]
    spec_from(experiment(arms=arms, analysis={**analysis, "looks": better}, **given), "mine.yaml")


def test_an_a_a_claims_nothing_so_its_looks_may_lie_anywhere() -> None:
    analysis = {**AA["analysis"], "looks": [2, 6]}

    assert spec_from(experiment(**{**AA, "analysis": analysis}), "file").analysis.looks == [2, 6]


def test_a_plan_is_strict_json_and_its_hash_covers_it() -> None:
    spec = spec_from(experiment(), "file")
    plan = make_plan(spec).to_dict()
    other = make_plan(spec_from(experiment(seeds=[0, 1, 2]), "file")).to_dict()

    assert json.loads(json.dumps(plan, allow_nan=False)) == plan
    assert plan["plan_hash"] != other["plan_hash"]


def test_smoothing_travels_with_the_plan_only_where_it_is_asked_for() -> None:
    plain = spec_from(experiment(), "file.yaml").analysis
    smooth = spec_from(experiment(analysis={"baseline": "flat", "smoothing": 5}), "file.yaml").analysis

    assert "smoothing" not in plain.to_plan()
    assert smooth.to_plan()["smoothing"] == 5


FACTORS = {
    "target_len": [*range(1, 21)], "batch_size": [*range(1, 21)], "kv_weight": [*range(20)],
    "codi_weight": [*range(20)], "warmup_steps": [*range(20)], "weight_decay": [*range(20)],
    "gradient_accumulation_steps": [*range(1, 21)], "eval_size": [*range(1, 21)],
}  # fmt: skip


def test_a_grid_of_too_many_trials_is_refused_by_its_factors_before_any_is_made() -> None:
    with pytest.raises(InputError) as caught:
        spec_from(experiment(grid=FACTORS, seeds="0-7"), "x.yaml")

    axes = " x ".join(["20"] * 8)
    assert str(caught.value) == (
        f"x.yaml: 2 arms x {axes} x 8 seeds = 409,600,000,000 trials; at most 100,000: "
        "take out values or seeds."
    )


def test_a_grid_may_have_a_hundred_thousand_trials_and_not_two_more() -> None:
    grid = {"target_len": [*range(1, 51)]}

    spec = spec_from(experiment(grid=grid, seeds="0-999"), "x.yaml")

    assert len(spec.seeds) * len(spec.arms) * len(spec.grid["target_len"]) == 100_000
    with pytest.raises(InputError, match="100,100 trials"):
        spec_from(experiment(grid=grid, seeds="0-1000"), "x.yaml")


def test_a_baseline_among_very_many_arms_is_refused_in_one_readable_line() -> None:
    arms = {f"arm{number}": {"target_len": number + 1} for number in range(20_000)}

    with pytest.raises(InputError, match=r"analysis\.baseline: arm 'flta' is unknown") as caught:
        spec_from(experiment(arms=arms, seeds=[0], analysis={"baseline": "flta"}), "x.yaml")

    assert len(str(caught.value)) < 2000
