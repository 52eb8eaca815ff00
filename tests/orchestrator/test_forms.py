"""What is written in another tool's spelling is answered with the form that is meant, all of it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.spec import ExperimentSpec, load_spec, set_value, spec_from
from orchestrator.trials import make_plan
from orchestrator.wording import FORMS, HOMES, TRIAL
from orchestrator.yaml_text import parse
from tests.fakes import experiment, write_experiment
from trainables.config import InputError, Mistakes

BOTH = "arms: {flat: {alignment_mode: flat}, structured: {alignment_mode: structured}}"
FORMS_MEANT = [
    ("seeds=3", "3 is one number: write 0-2 for 3 seeds, or [3] for seed 3 alone"),
    ("seeds=1", "1 is one number: write [0] for one seed, or [1] for seed 1 alone"),
    ("seeds='5'", "5 is one number: write 0-4 for 5 seeds, or [5] for seed 5 alone"),
    ("seeds=0..9", "write 0-9, both included"),
    ("seeds=0:9", "write 0-9, both included"),
    ("seeds=0 to 9", "write 0-9, both included"),
    ("seeds=0–9", "write 0-9, both included"),
    ("seeds=range(10)", "write 0-9"),
    ("seeds=[0-9]", "'0-9' in a list is text: write seeds: 0-9"),
    ("seeds=[0-3, 7]", "write seeds: 0-3,7"),
    ("seeds=", "nothing is no list of seeds: write seeds: 0-7"),
    ("seeds={from: 0, to: 9}", "write seeds: 0-7, or 0,3,5, or [0, 3, 5]"),
    ("arms=[flat, structured]", f"an arm has a name and what it changes: write {BOTH}"),
    ("arms=flat", "write arms: {flat: {alignment_mode: flat}}"),
    ("arms=[rkv, full]", "write arms: {rkv: {kv_method: rkv}, full: {kv_method: full}}"),
    ("arms=[mine, yours]", "write arms: {mine: {FIELD: VALUE}, yours: {FIELD: VALUE}}"),
    ("arms=[{a: {lr: 1}}, {b: {lr: 2}}]", "write arms: {a: {lr: 1}, b: {lr: 2}}, without dashes"),
    ("arms={flat: flat, b: {}}", "write flat: {alignment_mode: flat}"),
    ("arms={alignment_mode: [flat, structured]}", f"write {BOTH}"),
    ("arms={alignment_mode: {grid_search: [flat, structured]}}", f"name an arm for each value: write {BOTH}"),
    ("arms={one: {}}", f"two at least: write {BOTH}"),
    ("arms.flat.lr={grid_search: [1e-3, 1e-4]}", "stand under grid, grid: {lr: [0.001, 0.0001]}"),
    ("base.lr={grid_search: [1e-3, 1e-4]}", "stand under grid, grid: {lr: [0.001, 0.0001]}"),
    ("base.lr=tune.grid_search([1e-3, 1e-4])", "stand under grid, grid: {lr: [1e-3, 1e-4]}"),
    ("base.lr={loguniform: [1e-4, 1e-2]}", "nothing is drawn at random here"),
    ("base.lr={choice: [1, 2]}", "nothing is drawn at random here"),
    ("base.lr=[1e-3, 1e-4]", "stand under grid, grid: {lr: [0.001, 0.0001]}"),
    ("base.kv_method=[rkv, full]", "stand under grid, grid: {kv_method: [rkv, full]}"),
    ("base.model_name=[a, b]", "stand under grid, grid: {model_name: [a, b]}"),
    ("base.lr='1e-4'", "that is text; write lr: 1e-4, unquoted"),
    ("base.lr=1_000", "that is text; write lr: 1000, unquoted"),
    ("base.lr=−1", "that is text; write lr: -1"),
    ("base.batch_size='8'", "write batch_size: 8, unquoted"),
    ("base.batch_size=8.0", "write batch_size: 8"),
    ("base.epochs=", "base.epochs is empty and must be a number: leave it out for its default"),
    ("arms.structured.map_proj_share_dim=yes", "write map_proj_share_dim: true"),
    ("base=[{lr: 1}, {epochs: 2}]", "write base: {lr: 1, epochs: 2}, without dashes"),
    ("base=[lr, 3]", "write base: {model_name: gpt2, lr: 1e-4}"),
    ("base=lr=3", "write base: {lr: 3}"),
    ("base={lr:1e-4}", "leave a space after the colon: lr: 1e-4"),
    ("base.margin=0.02", "base.margin belongs under analysis, analysis: {margin: 0.02}"),
    ("base.seeds=0-3", "base.seeds belongs at the top, seeds: 0-3"),
    ("base.cpus=2", "base.cpus belongs under resources, resources: {cpus: 2}"),
    ("base.analysis={margin: 1}", "base.analysis belongs at the top, analysis: {margin: 1}"),
    ("arms.flat.margin=0.02", "arms.flat.margin belongs under analysis"),
    ("analysis.lr=3", "analysis.lr belongs under base, base: {lr: 3}"),
    ("resources.alpha=0.1", "resources.alpha belongs under analysis"),
    ("base.alignment-mode=flat", "Did you mean 'alignment_mode'?"),
    ("base.--lr=3", "Did you mean 'lr'?"),
    ("base.LR=3", "Did you mean 'lr'?"),
    ("base.learning_rate=1e-4", "Did you mean 'lr'?"),
    ("base.model=gpt2", "Did you mean 'model_name'?"),
    ("base.train_file=[a.jsonl]", "write train_file: a.jsonl, without brackets"),
    ("analysis.metric=eval_ce", "Did you mean 'primary'?"),
    ("trackers=[tensorbord, wandbb]", "2 mistakes: (1) trackers: tracker 'tensorbord' is unknown"),
    ("grid=[lr]", "write grid: {lr: [1e-4, 3e-4]}"),
    ("grid={lr: 1e-4}", "write grid: {lr: [0.0001]}"),
    ("grid={lr: {grid_search: [1, 2]}}", "write grid: {lr: [1, 2]}"),
    ("grid={lr: '1e-3, 1e-4'}", "write grid: {lr: [1e-3, 1e-4]}"),
    ("grid={lr: ['1e-3']}", "write lr: 1e-3, unquoted"),
    ("grid={margin: [1]}", "grid.margin belongs under analysis"),
    ("analysis=eval_ce", "write analysis: {baseline: flat, primary: eval_ce, margin: 0.02}"),
    ("analysis=", "analysis is empty"),
    ("analysis.looks=6", "write looks: [6]"),
    ("analysis.secondary=eval_accuracy", "write secondary: [eval_accuracy]"),
    ("analysis.margin=2%", "write it as a fraction, margin: 0.02"),
    ("analysis.direction=minimize", "did you mean min"),
    ("analysis.at=last", "'last_k_mean'"),
    ("analysis.baseline=[flat]", "write baseline: flat, without brackets"),
    ("resources=2", "write resources: {cpus: 2, gpus: 0, max_failures: 2}"),
    ("resources=", "resources is empty"),
    ("resources.memory_gib=8GiB", "write memory_gib: 8, the number alone"),
    ("trackers=tensorboard", "write trackers: [tensorboard]"),
    ("trackers=tensorboard, wandb", "write trackers: [tensorboard, wandb]"),
    ("trackers=none", "write trackers: [] for none"),
    ("trackers=", "trackers is empty"),
    ("name=", "name is empty and must be text: write name: mine"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "form"), FORMS_MEANT)
def test_another_spelling_is_answered_with_the_form_that_is_meant(change: str, form: str) -> None:
    values = experiment()
    set_value(values, change)

    with pytest.raises(InputError) as caught:
        spec_from(values, "mine.yaml")

    assert form in str(caught.value)
    assert str(caught.value).startswith("mine.yaml: ")


@pytest.mark.parametrize("section", FORMS.values())
def test_every_form_that_is_shown_can_be_written(section: str) -> None:
    one = section.partition(", or")[0]
    values = {**experiment(), **parse(one, "form")}

    assert make_plan(spec_from(values, "form")).cells


TOP = [
    ("lr: 3", "lr stands at the top and belongs under base, base: {lr: 3}"),
    ("model_name: gpt2", "belongs under base, base: {model_name: gpt2}"),
    ("margin: 0.02", "belongs under analysis, analysis: {margin: 0.02}"),
    ("gpus: 1", "belongs under resources, resources: {gpus: 1}"),
    ("seed: 3", "seed does not belong here: list it under seeds"),
    ("output_dir: x", "choose the place with --storage"),
    ("storage: /srv/x", "storage does not belong here: give --storage on the command line"),
    ("num_samples: 4", "Did you mean 'seeds'?"),
    ("batchsize: 8", "Did you mean 'batch_size', which belongs under base, base: {batch_size: 8}?"),
    ("basse: {lr: 1}", "Did you mean 'base'?"),
]


@pytest.mark.parametrize(("line", "told"), TOP)
def test_a_field_in_the_wrong_place_is_shown_its_place(line: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        spec_from({**experiment(), **parse(line, "line")}, "mine.yaml")

    assert told in str(caught.value)


MANY = {
    "seeds": 3, "arms": ["flat", "structured"], "trackers": "tensorboard", "lr": 1,
    "base": {"epcohs": 3, "lr": -1, "kv_method": "rvk", "batch_size": "8"}, "resources": {"cpu": 2},
    "analysis": {"baseline": "flat", "margin": "2", "primary": "loss"},
}  # fmt: skip


def test_all_that_is_wrong_in_a_file_is_told_at_once() -> None:
    with pytest.raises(Mistakes) as caught:
        spec_from(experiment(**MANY), "mine.yaml")

    places = ("seeds", "arms", "trackers", "lr", "'epcohs'", "base.lr", "base.kv_method", "base.batch_size",
              "'cpu'", "margin", "primary")  # fmt: skip
    assert all(any(place in told for told in caught.value.found) for place in places), caught.value.found
    assert len(caught.value.found) == len(places)
    assert str(caught.value).startswith("mine.yaml: 11 mistakes: (1) ")
    assert str(caught.value).endswith("... and 1 more.")


def test_what_is_wrong_between_fields_is_told_with_the_rest_and_once_for_all_arms() -> None:
    with pytest.raises(Mistakes) as caught:
        spec_from(experiment(base={"latent_iterations": 2, "student": "same_sequence"}, seeds=3), "x")

    assert len(caught.value.found) == 2
    assert "arms 'flat', 'structured': --latent_iterations has no effect" in caught.value.found[1]


def test_every_mistake_of_the_command_line_is_told_beside_those_of_the_file(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, trackers="tensorboard")

    with pytest.raises(Mistakes) as caught:
        load_spec(str(path), ["lr=3", "base.epochs", "base.lr='1'"], seeds="0..3")

    told = " ".join(caught.value.found)
    for words in ("--set base.lr=", "got 'base.epochs'", "base.lr must be a number", "--seeds: ", "trackers"):
        assert words in told
    assert len(caught.value.found) == 5
    assert str(caught.value).startswith(f"{path} with --set: 5 mistakes")


def test_names_given_twice_are_told_with_their_lines() -> None:
    with pytest.raises(Mistakes) as caught:
        parse("a: 1\na: 2\nb: {c: 1, c: 2}\n", "mine.yaml")

    assert [told.partition(":")[0] for told in caught.value.found] == [
        "'a' is given twice (line 2)", "'c' is given twice (line 3)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"), [("a:\n\tb: 1", "a tab stands there"), ("lr:1e-4\nb: 3", "a colon and a space")]
)
def test_what_yaml_complains_of_has_a_way_out(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse(text, "mine.yaml")


def test_the_terminal_gets_all_of_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_experiment(tmp_path, **{name: MANY[name] for name in ("seeds", "arms", "trackers")})

    code = cli.main(["plan", str(path)])

    assert code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert all(f"({number}) " in line for number in (1, 2, 3))


def test_the_forms_are_of_all_sections_and_the_homes_of_all_fields() -> None:
    assert list(FORMS) == list(ExperimentSpec.model_fields)
    assert set(HOMES) >= {*FORMS, *TRIAL}


def test_a_single_mistake_stands_without_a_count() -> None:
    values: dict[str, Any] = experiment(trackers="wandb")

    with pytest.raises(InputError, match=r"^mine\.yaml: trackers must be a list"):
        spec_from(values, "mine.yaml")
