from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, MambaConfig

from tests.trainables.conftest import small
from trainables.config import DistillConfig, InputError
from trainables.data import load_examples
from trainables.examples import make_example
from trainables.preflight import check, prepare
from trainables.tokenizers import load_tokenizer


def row(steps: int = 2, answer: str = "4") -> dict[str, str]:
    chain = " ".join(f"<<{i}+{i}={2 * i}>>" for i in range(steps))
    return {"question": f"What is {steps} of that, Ann?", "answer": f"It is {chain}.\n#### {answer}"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVTUNE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    rows = [row(2 + i % 3) | {"question": f"What are {i} and {i}, Ann?"} for i in range(200)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def on_file(data: Path, **changes: Any) -> DistillConfig:
    return small(dataset="gsm8k", train_file=str(data), subset_size=None, **changes)


def test_good_configs_pass(data: Path) -> None:
    check(small())
    check(small(teacher_name="self"))
    check(on_file(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "tiny-lama"}, r"--model_name 'tiny-lama' is unknown. Did you mean 'tiny-llama'\?"),
        ({"teacher_name": "tiny-techer"}, r"--teacher_name 'tiny-techer' is unknown. Did you mean 'tiny-te"),
        ({"teacher_name": "tiny-gpt2"}, "built-in student with random weights"),
        ({"target_len": 24}, r"--target_len 24 is longer than the longest chain.*23 tokens"),
        ({"batch_size": 256}, "fewer than one step of 256"),
        ({"shuffle_teacher": True, "batch_size": 1}, "no effect with --batch_size 1"),
        ({"alignment_mode": "flat", "flat_rank": 25}, "--flat_rank 25 is more than the 24"),
        ({"model_name": "/nowhere/model"}, "--model_name '/nowhere/model'"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(small(**changes))


def saved(config: Any, folder: Path) -> str:
    config.save_pretrained(folder)
    return str(folder)


def test_a_family_without_an_adapter_is_refused_before_its_weights_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model_name is a 'mamba' model"):
        check(small(model_name=saved(MambaConfig(), tmp_path)))


def test_a_model_with_too_few_positions_is_refused(tmp_path: Path, data: Path) -> None:
    examples = load_examples(on_file(data)).everything
    folder = saved(LlamaConfig(max_position_embeddings=16), tmp_path / "short")
    load_tokenizer("tiny-llama", "gsm8k", examples).save_pretrained(folder)

    with pytest.raises(InputError, match=r"--model_name .*short takes 16 positions, the longest row needs"):
        check(on_file(data, model_name=folder, teacher_name="tiny-teacher"))


def test_a_same_sequence_student_wants_its_teachers_tokenizer(tmp_path: Path, data: Path) -> None:
    others = [make_example(f"Who ran {i} miles?\n", "1+1=2\n", "#### ", "2") for i in range(9)]
    other = load_tokenizer("tiny-llama", "gsm8k", others)
    folder = saved(LlamaConfig(), tmp_path / "other")
    other.save_pretrained(folder)

    with pytest.raises(InputError, match="have different tokenizers"):
        check(on_file(data, teacher_name=folder, student="same_sequence"))
    check(on_file(data, teacher_name=folder, student="latent"))


def test_bad_rows_are_refused_with_their_line(data: Path) -> None:
    with data.open("a") as file:
        file.write("\n" + json.dumps({"question": "And now?", "answer": "It is <<1+1=2>>2."}))

    with pytest.raises(InputError, match=r"rows\.jsonl.*201.*####"):
        check(on_file(data))


def test_what_the_built_in_teacher_solves_is_handed_back_and_of_another_nothing_is_claimed() -> None:
    told: list[str] = []

    solved = prepare(small(teacher_name="tiny-teacher"), told.append)

    assert solved is not None
    assert 0.95 <= solved <= 1
    assert f"solves {solved:.1%}" in told[-1]
    assert prepare(small(teacher_name="self"), told.append) is None
