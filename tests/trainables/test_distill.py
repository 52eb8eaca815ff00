from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.trainables.conftest import small
from trainables.__main__ import main
from trainables.config import DistillConfig, InputError
from trainables.distill import _Run, distill, planned_steps, rate_factor
from trainables.trial_folder import TrialFolder, is_intact

STEPS = 6


def short(folder: Path, **changes: Any) -> DistillConfig:
    base: dict[str, Any] = {
        "max_steps": STEPS,
        "logging_steps": 1,
        "eval_steps": 3,
        "save_steps": 2,
        "save_total_limit": 9,
        "eval_size": 8,
        "threads": 1,
        "output_dir": str(folder),
    }
    return small(**{**base, **changes})


def train(config: DistillConfig, resume_from: str | None = None) -> dict[str, Any]:
    return distill(config, lambda row: None, resume_from)


def metrics(folder: Path) -> list[tuple[int, str, dict[str, float]]]:
    """All that a trial reported, apart from how long it took."""
    return [(row["step"], row["split"], row["metrics"]) for row in TrialFolder(folder).read_metrics()]


LASTING = (
    "status",
    "completed_steps",
    "tokens_seen",
    "data_order_hash",
    "init_hash",
    "eval_set_hash",
    "final",
)


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in LASTING}


@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-llama"])
@pytest.mark.parametrize("student", ["latent", "same_sequence"])
def test_a_trial_run_twice_ends_with_the_same_bits(tmp_path: Path, student: str, model: str) -> None:
    results = [train(short(tmp_path / name, student=student, model_name=model)) for name in "ab"]

    assert lasting(results[0]) == lasting(results[1])
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.parametrize("changes", [{}, {"student": "same_sequence", "kv_method": "random"}])
def test_a_resumed_trial_ends_as_if_it_had_never_stopped(tmp_path: Path, changes: dict[str, Any]) -> None:
    unbroken = train(short(tmp_path / "a", **changes))
    train(short(tmp_path / "b", **changes))
    folder = TrialFolder(tmp_path / "b")
    folder.result.unlink()

    resumed = train(short(tmp_path / "b", **changes), resume_from=str(folder.checkpoint(2)))

    assert resumed["resumed_from_step"] == 2
    assert lasting(resumed) == lasting(unbroken)
    assert metrics(tmp_path / "b") == metrics(tmp_path / "a")


def test_a_trial_that_died_between_its_last_evaluation_and_its_result_has_that_evaluation_once(
    tmp_path: Path,
) -> None:
    train(short(tmp_path))
    folder = TrialFolder(tmp_path)
    before = metrics(tmp_path)
    folder.result.unlink()

    train(short(tmp_path), resume_from=folder.newest_checkpoint())

    assert metrics(tmp_path) == before


def test_both_modes_see_the_same_rows_in_the_same_order_from_the_same_start(tmp_path: Path) -> None:
    flat, structured = (train(short(tmp_path / mode, alignment_mode=mode)) for mode in ("flat", "structured"))

    for name in ("data_order_hash", "init_hash", "eval_set_hash", "train_set_hash", "tokens_seen"):
        assert flat[name] == structured[name], name
    assert flat["aligner_params"] > structured["aligner_params"]


def test_another_seed_sees_another_order(tmp_path: Path) -> None:
    hashes = {train(short(tmp_path / str(seed), seed=seed))["data_order_hash"] for seed in (0, 1)}

    assert len(hashes) == 2


def test_damaged_and_torn_checkpoints_are_passed_over(tmp_path: Path) -> None:
    train(short(tmp_path))
    folder = TrialFolder(tmp_path)
    flipped = folder.checkpoint(STEPS) / "weights.safetensors"
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    (folder.checkpoint(4) / "manifest.json").unlink()

    assert folder.newest_checkpoint() == str(folder.checkpoint(2))
    with pytest.raises(InputError, match="incomplete or damaged"):
        train(short(tmp_path), resume_from=str(folder.checkpoint(4)))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    train(short(tmp_path, save_total_limit=2))

    assert [path.name for path in TrialFolder(tmp_path).checkpoints()] == ["checkpoint-6", "checkpoint-4"]
    assert all(is_intact(path) for path in TrialFolder(tmp_path).checkpoints())


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged_with_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.step import Distillation, LossTerms

    real = Distillation.forward

    def poisoned(self: Distillation, batch: Any, taught: Any, step: int) -> LossTerms:
        terms = real(self, batch, taught, step)
        if step == 4:
            terms.ce.data.fill_(float("nan"))
        return terms

    monkeypatch.setattr(Distillation, "forward", poisoned)
    result = train(short(tmp_path))

    assert (result["status"], result["first_nonfinite_step"], result["completed_steps"]) == ("diverged", 4, 3)
    assert TrialFolder(tmp_path).read_result(result["config_hash"]) == result
    assert '"loss": "NaN"' in (tmp_path / "metrics.jsonl").read_text()
    assert max(row["step"] for row in TrialFolder(tmp_path).read_metrics()) == 4


def test_the_log_line_is_the_cards(tmp_path: Path) -> None:
    train(short(tmp_path))

    lines = (tmp_path / "train.log").read_text().splitlines()

    number = r"\d+\.\d{4}"
    line = rf"Step 6: loss={number}, CE={number}, KV={number}, CODI={number} \[Mode: structured\]"
    assert any(re.fullmatch(line, found) for found in lines)


def test_every_row_reaches_the_report_and_the_file_alike(tmp_path: Path) -> None:
    reported: list[dict[str, Any]] = []

    distill(short(tmp_path), reported.append)

    assert reported == list(TrialFolder(tmp_path).read_metrics())
    assert {"eval_ce", "eval_accuracy", "kv_cka", "probe_r2", "target_rms", "target_rank"} <= set(
        reported[-1]["metrics"]
    )


def test_the_result_is_strict_json(tmp_path: Path) -> None:
    train(short(tmp_path))

    def refuse(literal: str) -> None:
        raise AssertionError(literal)

    json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)


def test_a_folder_with_another_trial_is_refused(tmp_path: Path) -> None:
    train(short(tmp_path))

    with pytest.raises(InputError, match=r"other settings \(lr\)"):
        train(short(tmp_path, lr=1e-3))


def test_gradient_accumulation_gives_the_losses_of_one_large_batch(tmp_path: Path) -> None:
    whole = train(short(tmp_path / "a", batch_size=8))
    parts = train(short(tmp_path / "b", batch_size=2, gradient_accumulation_steps=4))

    assert whole["data_order_hash"] == parts["data_order_hash"]
    assert whole["final"]["eval_ce"] == pytest.approx(parts["final"]["eval_ce"], rel=1e-4)


def test_bfloat16_trains(tmp_path: Path) -> None:
    result = train(short(tmp_path, dtype="bfloat16"))

    assert result["status"] == "completed"


def test_steps_follow_from_rows_batches_and_epochs() -> None:
    assert planned_steps(small(batch_size=8, epochs=3), 1000) == 375
    assert planned_steps(small(batch_size=8, gradient_accumulation_steps=2, epochs=1), 1007) == 62
    assert planned_steps(small(max_steps=7), 1000) == 7


def test_the_learning_rate_warms_up_and_then_holds_or_falls() -> None:
    config = small(warmup_steps=4)

    assert [rate_factor(config, step, 10) for step in (1, 4, 5, 10)] == [0.25, 1, 1, 1]
    assert rate_factor(small(lr_schedule="linear"), 10, 10) == pytest.approx(0.1)
    assert rate_factor(small(lr_schedule="cosine"), 6, 10) == pytest.approx(0.5)


TRIAL = (
    "--model_name", "tiny-llama", "--dataset", "arithmetic", "--subset_size", "32", "--eval_size", "8",
    "--max_steps", "2", "--logging_steps", "1", "--threads", "1", "--target_len", "4",
)  # fmt: skip


def test_kvtune_train_sets_a_changed_record_aside_and_trains_to_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TRIAL, "--output_dir", str(tmp_path / "trial")]
    assert main(flags) == 0
    before, told = metrics(tmp_path / "trial"), tmp_path / "trial" / "metrics.jsonl"
    told.write_text(told.read_text().splitlines(keepends=True)[0])
    capsys.readouterr()

    assert main(flags) == 0

    said = capsys.readouterr().out
    assert "metrics.jsonl has 1 rows, and result.json tells of 3: set aside in" in said
    assert (tmp_path / "trial.corrupt-1" / "metrics.jsonl").read_text().count("\n") == 1
    assert metrics(tmp_path / "trial") == before
    assert main(flags) == 0
    assert "holds this trial already" in capsys.readouterr().out


def test_kvtune_train_says_from_which_checkpoint_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*TRIAL, "--max_steps", "4", "--save_steps", "2", "--output_dir", str(tmp_path / "trial")]
    step = _Run._step
    for hurt, told in (
        (
            2,
            "no checkpoint is there yet (one is written every --save_steps 2), so the same command begins at",
        ),
        (4, "the same command goes on from checkpoint-2, step 2; steps after it are computed again."),
    ):
        monkeypatch.setattr(
            _Run, "_step", lambda run, at, index, hurt=hurt: _until(hurt, at) or step(run, at, index)
        )
        assert main(flags) == 130
        assert f"ended before it was done; {told}" in capsys.readouterr().err

    monkeypatch.setattr(_Run, "_step", step)
    assert main(flags) == 0

    *_, said = (tmp_path / "trial" / "train.log").read_text().partition("goes on from ")
    assert said.startswith("checkpoint-2, step 2 of 4; steps after it are computed again\nStep 3: ")


def _until(hurt: int, step: int) -> None:
    """Ctrl-C in this step."""
    if step == hurt:
        raise KeyboardInterrupt


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"[1]", b"\xff", b'{"lr": 1e400}'])
def test_a_config_that_cannot_be_read_is_one_line_of_kvtune_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "config.json").write_bytes(content)

    assert main([*TRIAL, "--output_dir", str(tmp_path)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "config.json cannot be read" in line
    assert "choose another folder, or delete this one" in line


@pytest.mark.parametrize("told", [None, "{}", '{"config_hash": "other"}'])
def test_kvtune_train_takes_no_other_trial_for_this_one(
    tmp_path: Path, told: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder whose config is gone or empty, or that holds another's result; given as the current one."""
    here = tmp_path / "trial"
    config = short(here)
    train(config)
    if told is None:
        (here / "config.json").unlink()
    elif "hash" in told:
        (here / "result.json").write_text('{"status": "completed", "config_hash": "other"}')
    else:
        (here / "config.json").write_text(told)
    monkeypatch.chdir(here)
    words = [f"--{name}={value}" for name, value in config.to_dict().items() if value is not None]

    assert main([*words, "--output_dir=."]) == 0

    assert "trained afresh" in capsys.readouterr().out
    assert TrialFolder(here).read_result(config.hash())
    assert (tmp_path / "trial.corrupt-1").is_dir()


def test_no_trial_goes_on_from_rows_that_changed(tmp_path: Path) -> None:
    train(short(tmp_path / "a"))
    folder = TrialFolder(tmp_path / "b")
    train(short(folder.path))
    folder.result.unlink()
    rows = folder.metrics.read_text().splitlines(keepends=True)
    assert folder.newest_checkpoint() == str(folder.checkpoint(6))

    third = next(number for number, row in enumerate(rows) if '"step": 3' in row)
    folder.metrics.write_text("".join([*rows[:third], *rows[third + 1 :]]))

    assert folder.newest_checkpoint() == str(folder.checkpoint(2)), "whose rows are all there"
    train(short(folder.path), resume_from=folder.newest_checkpoint())
    assert metrics(folder.path) == metrics(tmp_path / "a")


def test_a_checkpoint_of_before_they_told_of_rows_is_gone_on_from(tmp_path: Path) -> None:
    train(short(tmp_path))
    folder = TrialFolder(tmp_path)
    newest = folder.checkpoint(STEPS)
    (newest / "record.json").unlink()
    manifest = json.loads((newest / "manifest.json").read_text())
    del manifest["record.json"]
    (newest / "manifest.json").write_text(json.dumps(manifest))

    assert folder.newest_checkpoint() == str(newest)


def test_what_was_left_out_of_the_files_is_told_once_by_the_trial_and_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVTUNE_CACHE", str(tmp_path / "cache"))
    rows = [
        {"question": f"q{i}?", "steps": [f"<<{i}+{i}={2 * i}>>"] * (i > 2), "answer": str(2 * i)}
        for i in range(99)
    ]
    (tmp_path / "aug.json").write_text(json.dumps(rows))
    flags = {"train_file": tmp_path / "aug.json", "output_dir": tmp_path / "trial", "target_len": 2}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]

    code = main([*words, "--model_name", "tiny-llama", "--teacher_name", "self", "--max_steps", "1"])

    told = f"3 of 99 rows of --train_file {tmp_path / 'aug.json'} left out: 3 no equation."
    assert code == 0
    assert caplog.text.count(told) == 1
    assert (tmp_path / "trial" / "train.log").read_text().count(told) == 1
