import json

import numpy as np
import pandas as pd
import pytest

from analysis import compare, load
from analysis.plan import Earlier, ResultsError, read_plan
from analysis.results import analyse
from orchestrator import attempts
from tests.analysis.fakes import FakeExperiment, loaded
from tests.analysis.questions import judged, plan_of
from trainables.trial_folder import TrialFolder

FLAT = [2.0, 2.1, 1.9, 2.05, 1.95, 2.2, 1.8, 2.0, 2.1, 1.9, 2.0, 2.05]
BETTER = [value - 0.5 - 0.01 * (place % 4) for place, value in enumerate(FLAT)]


def ran_before(seeds, **fields):
    """An earlier plan of the same arms, as plan.json's history tells it."""
    known = {
        "plan_hash": "feed",
        "seeds": tuple(seeds),
        "arms": plan_of().arms,
        "at": "2026-01-01",
        "looked": True,
        "looks": None,
    }
    return Earlier(**{**known, **fields})


def better(n, lost=0, **options):
    """structured better on all of n seeds, the last `lost` of them not run."""
    statuses = {("structured", n - 1 - place): "not_run" for place in range(lost)}
    return judged(FLAT[:n], BETTER[:n], statuses=statuses, **options)


# --- looks


def test_without_declared_looks_the_one_look_is_at_the_end_and_has_the_whole_level():
    found = better(8)

    assert (found.verdict, found.alpha) == ("SUPERIOR", 0.05)
    assert found.look.allowed
    assert found.look.final


@pytest.mark.parametrize("status", ["not_run", "preempted", "cancelled"])
def test_a_claim_before_all_planned_seeds_have_ended_is_taken_back(status):
    found = judged(FLAT[:8], BETTER[:8], statuses={("flat", 3): status})

    assert (found.verdict, found.capped_from, found.cap) == ("INCONCLUSIVE", "SUPERIOR", "interim")
    assert "the plan looks once, at the end: nothing is claimed yet" in found.sentence
    assert "That is no failure: run the same seeds again." in found.sentence
    assert "only the missing trials are run" in found.next_step


@pytest.mark.parametrize(("looks", "alpha"), [((6, 12), 0.025), ((8, 10, 12), 0.05 / 3), ((12,), 0.05)])
def test_declared_looks_share_the_level_equally(looks, alpha):
    found = better(12, looks=looks)

    assert found.alpha == pytest.approx(alpha, abs=1e-15)
    assert found.verdict == "SUPERIOR"
    assert f"{100 * (1 - found.alpha):g} % CI" in found.sentence


def test_a_claim_at_a_declared_look_stands_and_between_two_looks_it_does_not():
    at_look, between = better(12, lost=4, looks=(8, 12)), better(12, lost=3, looks=(8, 12))

    assert (at_look.verdict, at_look.cap) == ("SUPERIOR", None)
    assert (between.verdict, between.cap) == ("INCONCLUSIVE", "interim")
    assert "no look is declared at 9 seeds, the next declared look is at 12 seeds" in between.sentence


def test_a_look_at_the_shared_level_needs_more_pairs():
    assert better(6).verdict == "SUPERIOR"
    assert better(6, looks=(6, 12)).verdict == "NOT TESTABLE"


def test_an_old_plan_whose_first_look_could_never_claim_is_reported_and_told():
    """`kvtune plan` and `run` refuse such looks; folders from before hold them."""
    at_first, at_last = (better(12, lost=lost, looks=(6, 12)) for lost in (6, 0))

    assert (at_first.verdict, at_last.verdict) == ("NOT TESTABLE", "SUPERIOR")
    for found in (at_first, at_last):
        (warning,) = [text for text in found.warnings if "could never claim" in text]
        assert "a look at 6 seeds" in warning
        assert "its level, 0.025, lies below the smallest exact p of so few, 0.031" in warning
    assert not better(12, looks=(7, 12)).warnings


def test_a_failed_seed_has_ended_and_is_no_reason_to_wait():
    found = judged(FLAT[:8], BETTER[:8], statuses={("flat", 3): "diverged"})

    assert found.look.ended == 8
    assert found.verdict == "SUPERIOR"


# --- seeds added or left out


def test_seeds_added_after_a_look_put_up_the_banner_and_take_the_claim_back():
    found = better(8, history=[ran_before(range(6))])

    assert found.banner.startswith(
        "exploratory: unplanned extension (seeds 6, 7 were added after a look at 6"
    )
    assert found.sentence.startswith("Exploratory: unplanned extension")
    assert (found.verdict, found.capped_from, found.cap) == ("INCONCLUSIVE", "SUPERIOR", "extension")
    assert "Run a new experiment" in found.next_step


def test_a_look_at_too_few_seeds_to_claim_anything_is_told_and_costs_nothing():
    found = better(8, history=[ran_before(range(3))])

    assert found.banner.startswith("exploratory: unplanned extension (seeds 3, 4, 5, 6, 7")
    assert "could not claim anything, so the level holds" in found.banner
    assert found.verdict == "SUPERIOR"


@pytest.mark.parametrize(
    "entry",
    [
        ran_before(range(6), looked=False),
        ran_before(range(8)),
        ran_before(range(6), arms={"flat": {"alignment_mode": "flat"}, "structured": {"lr": 1}}),
        ran_before(range(6), arms={"flat": {"alignment_mode": "flat"}}),
    ],
)
def test_nobody_looked_or_the_arms_were_others_so_nothing_was_extended(entry):
    found = better(8, history=[entry])

    assert found.banner is None
    assert found.verdict == "SUPERIOR"


def test_a_look_that_was_declared_is_no_unplanned_one():
    declared = ran_before(range(8), looks=(8, 12))
    afterwards = ran_before(range(8), looks=())

    assert better(12, looks=(8, 12), history=[declared]).verdict == "SUPERIOR"
    assert better(12, looks=(8, 12), history=[afterwards]).cap == "extension"


def test_peeking_after_every_seed_and_stopping_at_will_claims_too_much_and_the_banner_stops_it():
    rng = np.random.default_rng(2)
    claims = {"peeking": 0, "here": 0}
    for _ in range(300):
        flat, other = rng.normal(0, 1, (2, 10))
        for n in range(6, 11):
            history = [ran_before(range(earlier)) for earlier in range(6, n)]
            found = judged(flat[:n], other[:n], margin=None, history=history)
            if (found.capped_from or found.verdict) in ("SUPERIOR", "INFERIOR"):
                claims["peeking"] += 1
                claims["here"] += found.cap is None
                break

    assert claims["peeking"] > 0.07 * 300
    assert claims["here"] < 0.05 * 300


def history_of(fake, seeds, **fields):
    return {
        "history": [
            {"plan_hash": "feed", "seeds": list(seeds), "arms": fake.plan()["arms"], "at": "x", **fields}
        ]
    }


def test_a_failed_seed_that_was_replaced_by_a_fresh_one_makes_the_contrast_invalid(tmp_path):
    fake = FakeExperiment()
    fake.plan_changes = history_of(fake, [0, 1, 2, 3, 4, 5, 6, 99], looked=False)
    folder = fake.write(tmp_path)

    without_folders = compare(load(folder), treatment="structured")
    (folder / "trials" / "flat-seed0-0").mkdir(parents=True)
    never_ran = compare(load(folder), treatment="structured")
    (folder / "trials" / "flat-seed99-0").mkdir()
    ran = compare(load(folder), treatment="structured")

    assert without_folders.verdict == ran.verdict == "INVALID"
    assert never_ran.verdict == "SUPERIOR"
    assert "seed 99 ran and is planned no more: a seed is never replaced" in ran.sentence


@pytest.mark.parametrize(
    ("ends", "rows", "counts"),
    [
        (["cancelled"], [], False),
        (["preempted", None], [], False),
        (["crashed", "cancelled"], ["train", "train"], False),
        (["cancelled"], ["train", "eval", "train"], True),
        (["crashed"], [], True),
        (["timeout"], ["train"], True),
        (["completed"], ["train", "eval"], True),
    ],
)
def test_an_attempt_without_an_evaluation_is_no_result_that_was_left_out(tmp_path, ends, rows, counts):
    fake = FakeExperiment()
    fake.plan_changes = history_of(fake, range(9), looked=False)
    folder = fake.write(tmp_path)
    trial = TrialFolder(folder / "trials" / "flat-seed8-0a1b2c3d4e5f")
    trial.path.mkdir(parents=True)
    for status in ends:
        number = attempts.start(trial.path, None)
        if status:
            attempts.end(trial.path, number, status, "for a reason")
    for step, split in enumerate(rows):
        trial.append_metrics({"step": step, "split": split, "metrics": {"eval_ce": float("nan")}})

    found = compare(load(folder), treatment="structured")

    assert (found.verdict == "INVALID") == counts


def test_a_seed_that_ran_in_other_arms_alone_is_none_of_a_contrasts(tmp_path):
    fake = FakeExperiment()
    fake.plan_changes = history_of(fake, range(9), looked=False)
    folder = fake.write(tmp_path)
    for name in ("other-seed8-0a1b2c3d4e5f", "flat-seed8-x-seed0-0a1b2c3d4e5f", "flat-seed80-0a1b2c3d4e5f"):
        (folder / "trials" / name).mkdir(parents=True)

    assert compare(load(folder), treatment="structured").verdict == "SUPERIOR"


def test_a_lost_run_of_a_seed_that_is_not_planned_is_not_told_as_one_that_ran(tmp_path):
    folder = FakeExperiment(seeds=range(9), statuses={("structured", 8): "cancelled"}).write(tmp_path)
    (folder / "plan.json").write_text(json.dumps(FakeExperiment().plan()))
    for name in ("runs", "metrics"):
        table = pd.read_parquet(folder / f"{name}.parquet")
        lost = table["trial_id"].str.contains("-seed8-")
        kept = ~lost | (table["trial_id"].str.startswith("structured") & (name == "runs"))
        table[kept].to_parquet(folder / f"{name}.parquet")

    gates = {gate.name: gate for gate in compare(load(folder), treatment="structured").gates}

    assert gates["no seed that ran was left out"].detail == "all are planned"


def test_a_failed_run_of_a_seed_that_is_not_planned_is_noticed_in_the_table(tmp_path):
    all_seeds = FakeExperiment(seeds=range(9), statuses={("structured", 8): "diverged"}).write(tmp_path)
    plan = FakeExperiment().plan()
    (all_seeds / "plan.json").write_text(json.dumps(plan))

    found = compare(load(all_seeds), treatment="structured")

    assert found.verdict == "INVALID"
    assert "seed 8 ran (seed 8 failed) and is planned no more" in found.sentence


def test_the_report_tells_what_departed_from_the_plan():
    fake = FakeExperiment()
    results = analyse(loaded(plan_changes=history_of(fake, range(6), looked=True)))

    assert len(results.deviations) == 2
    assert results.deviations[0].startswith("Exploratory: unplanned extension")
    assert results.deviations[1].startswith("An earlier plan (feed) with the same arms and seeds 0, 1, 2, 3")
    assert analyse(loaded()).deviations == ()


def test_an_older_folder_without_the_newer_fields_is_read_as_one_look_at_the_end():
    plan = loaded().plan

    assert (plan.mode, plan.looks, plan.history, plan.grid) == ("ab", (), (), {})
    assert plan.labels["structured"].arm == "structured"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"looks": [12, 6]}, "rising numbers of seeds"),
        ({"looks": [0, 6]}, "rising numbers of seeds"),
        ({"mode": "bb"}, "analysis.mode 'bb' is unknown"),
    ],
)
def test_a_plan_with_looks_or_a_mode_that_cannot_be_is_refused(tmp_path, changes, message):
    plan = FakeExperiment().plan()
    plan["analysis"].update(changes)
    (tmp_path / "plan.json").write_text(json.dumps(plan))

    with pytest.raises(ResultsError, match=message):
        read_plan(tmp_path / "plan.json")
