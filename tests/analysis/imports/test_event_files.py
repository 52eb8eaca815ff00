"""Event files that TensorBoard's own writer, and torch's, made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from analysis import ResultsError, load
from analysis.endpoints import endpoint_of
from tests.analysis.imports.records import DIFFERENCE, STEPS, judged, mapped, remarks, statuses, value

MAPPING = mapped(
    arm={"path": "([AB])-s[0-9]"}, seed={"path": "-s([0-9]+)"}, step=None,
    metrics={"val_loss": {"column": "eval/loss", "direction": "min"}},
)  # fmt: skip


def write(
    folder: Path, arm: str, seed: int, steps: tuple[int, ...] = STEPS, shift: float = 0.0, **how: Any
) -> Path:
    place = folder / f"{arm}-s{seed}"
    with SummaryWriter(str(place), filename_suffix=how.pop("suffix", "")) as writer:
        for step in steps:
            writer.add_scalar("train/loss", 3.0, step - 1)
            writer.add_scalar("eval/loss", value(arm, seed, step) + shift, step, **how)
        writer.add_text("note", "no number", 0)
    return place


@pytest.fixture
def logs(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    how = getattr(request, "param", {})
    for arm in "AB":
        for seed in range(6):
            write(tmp_path / "tb", arm, seed, **how)
    return tmp_path / "tb"


@pytest.mark.parametrize(
    "logs", [{}, {"new_style": True}, {"double_precision": True, "new_style": True}], indirect=True
)
def test_scalars_are_read_however_they_are_stored(logs: Path, tmp_path: Path) -> None:
    found = judged("tensorboard", logs, MAPPING, tmp_path / "out")

    assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE, abs=1e-6))


def test_the_folder_that_add_hparams_makes_is_neither_a_run_nor_a_retry(logs: Path, tmp_path: Path) -> None:
    plain = judged("tensorboard", logs, MAPPING, tmp_path / "plain")
    for place in list(logs.iterdir()):
        with SummaryWriter(str(place), filename_suffix=".more") as writer:
            writer.add_hparams({"lr": 0.1}, {"eval/loss": 0.25})

    found = judged("tensorboard", logs, MAPPING, tmp_path / "out")

    assert found.rows == plain.rows
    assert len(load(tmp_path / "out").runs) == 12


def test_a_folder_that_add_scalars_makes_for_another_curve_is_no_attempt(logs: Path, tmp_path: Path) -> None:
    for place in list(logs.iterdir()):
        with SummaryWriter(str(place), filename_suffix=".more") as writer:
            writer.add_scalars("memory", {"peak": 1.0}, 100)

    found = judged("tensorboard", logs, MAPPING, tmp_path / "out")

    assert (found.pairs, len(load(tmp_path / "out").runs)) == (6, 12)
    assert "arm and seed that logged it: 12 (memory_peak)" in remarks(tmp_path / "out")


def test_two_runs_in_one_folder_are_refused_with_step_and_files(logs: Path, tmp_path: Path) -> None:
    write(logs, "B", 2, shift=1.0, suffix=".again")

    with pytest.raises(
        ResultsError,
        match=r"arm B, seed 2: two values of eval/loss at step 100, .*B-s2.*two files of one folder",
    ):
        judged("tensorboard", logs, MAPPING, tmp_path / "out")


def test_two_runs_whose_steps_never_meet_are_refused_too(logs: Path, tmp_path: Path) -> None:
    write(logs, "B", 2, steps=(150, 250, 300), shift=1.0, suffix=".again")

    with pytest.raises(
        ResultsError, match=r"arm B, seed 2: .*step (goes back from \d+ to 150|100)|two files of one folder"
    ):
        judged("tensorboard", logs, MAPPING, tmp_path / "out")


def test_a_run_that_went_on_in_a_second_file_is_one_run(tmp_path: Path) -> None:
    for arm in "AB":
        for seed in range(6):
            write(tmp_path / "tb", arm, seed, steps=STEPS[:2])
            write(tmp_path / "tb", arm, seed, steps=STEPS[2:], suffix=".resumed")

    assert judged("tensorboard", tmp_path / "tb", MAPPING, tmp_path / "out").pairs == 6


def test_of_a_resumed_run_the_later_file_counts_where_the_mapping_says_so(logs: Path, tmp_path: Path) -> None:
    write(logs, "B", 2, steps=(200, 300), shift=-0.01, suffix=".resumed")

    found = judged("tensorboard", logs, {**MAPPING, "repeated": "last"}, tmp_path / "out")

    assert found.rows[2].treatment == pytest.approx(value("B", 2, 300) - 0.01)
    assert "arm B, seed 2, step 200" in remarks(tmp_path / "out")


def test_a_run_that_ended_early_is_told_with_its_step(logs: Path, tmp_path: Path) -> None:
    for file in (logs / "B-s4").iterdir():
        file.unlink()
    write(logs, "B", 4, steps=STEPS[:1])

    judged("tensorboard", logs, MAPPING, tmp_path / "out")

    assert statuses(tmp_path / "out")["B-seed4"] == (
        "stopped",
        "ended at step 100 of 300, no reason on record",
    )


def test_ties_are_judged_at_the_precision_of_float32(tmp_path: Path) -> None:
    """Accuracies of 50 items: equal differences differ by rounding, and an exact test must not see that."""
    hits = {"A": [20, 21, 22, 23, 24, 25], "B": [21, 20, 23, 24, 23, 28]}
    for arm in "AB":
        for seed in range(6):
            with SummaryWriter(str(tmp_path / "tb" / f"{arm}-s{seed}")) as writer:
                writer.add_scalar("eval/acc", hits[arm][seed] / 50, 1)
    mapping = {**MAPPING, "metrics": {"acc": {"column": "eval/acc", "direction": "max"}}}
    mapping["analysis"] = {"baseline": "A", "primary": "acc"}

    found = judged("tensorboard", tmp_path / "tb", mapping, tmp_path / "out")

    deltas = [row.delta * 50 for row in found.rows if row.delta is not None]
    assert [round(delta, 5) for delta in deltas] == [1, -1, 1, 1, -1, 3]
    whole = sum(
        abs(sum(s * d for s, d in zip(signs, (1, -1, 1, 1, -1, 3), strict=True))) >= 4 for signs in _signs(6)
    )
    assert found.p_signflip == whole / 64
    assert endpoint_of(load(tmp_path / "out").plan).precision == 2.0**-24


def _signs(n: int) -> list[tuple[int, ...]]:
    from itertools import product

    return list(product((1, -1), repeat=n))


@pytest.mark.parametrize("tag", ["step", "wall_time", "when"])
def test_a_tag_may_have_any_name(tag: str, tmp_path: Path) -> None:
    for arm in "AB":
        for seed in range(6):
            with SummaryWriter(str(tmp_path / "tb" / f"{arm}-s{seed}")) as writer:
                for step in STEPS:
                    writer.add_scalar(tag, value(arm, seed, step), step)
    mapping = MAPPING | {"metrics": {"val_loss": {"column": tag, "direction": "min"}}}

    found = judged("tensorboard", tmp_path / "tb", mapping, tmp_path / "out")

    assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE, abs=1e-6))


@pytest.mark.parametrize("content", [b"", b"no events at all"])
def test_a_run_whose_file_holds_nothing_is_a_run(logs: Path, tmp_path: Path, content: bytes) -> None:
    for file in (logs / "B-s1").iterdir():
        file.write_bytes(content)

    judged("tensorboard", logs, MAPPING, tmp_path / "out")

    reason = "it has no val_loss, and no reason is on record"
    assert statuses(tmp_path / "out")["B-seed1"] == ("stopped", reason)


def test_unmatched_folders_of_one_name_are_counted_each(logs: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        with SummaryWriter(str(logs / f"{seed}" / "train")) as writer:
            writer.add_scalar("eval/loss", 1.0, 100)

    with pytest.raises(ResultsError, match=r"2 of 14 runs: .*tb/0/train, .*tb/1/train"):
        judged("tensorboard", logs, MAPPING, tmp_path / "out")
