"""The built-in teacher: a larger Llama, really trained to solve a data set with its chain of thought.

The one for the built-in task travels in the package, made by `python -m trainables.builtin_teacher`;
for any other rows it is trained once and cached by the hash of recipe, rows and tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from transformers.utils.logging import disable_progress_bar
from typing_extensions import TypedDict

from trainables.batches import batches, collate
from trainables.capture import Reader, read_prompt, write_on
from trainables.config import BUILTIN_TEACHER, DistillConfig, InputError
from trainables.data import load_examples, parse_answer
from trainables.examples import Example, Splits, set_hash
from trainables.json_files import CorruptFile, read_object
from trainables.models import Size, from_config, from_pretrained, llama_config, weights_hash
from trainables.reading import explicit_loss, read_whole
from trainables.streams import stream_seed
from trainables.tokenizers import Encoded, cache_dir, encode, load_tokenizer, tokenizer_hash

Progress = Callable[[str], None]

PACKAGED = Path(__file__).parent / "assets" / "tiny-teacher"
REQUIRED_ACCURACY = {"arithmetic": 0.95}
"""Exact match on held-out problems below which a run stops; GSM8K has none: no model this small solves it."""


FIRST_TOLD, TOLD_EVERY = 5, 50
"""Training steps after which the loss and the time left are told."""


class Card(TypedDict):
    """What is read of a teacher's card.json."""

    key: str
    weights: str


CARD = TypeAdapter(Card)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a built-in teacher is trained; AdamW, warm-up, constant, then a linear fall over the last third."""

    size: Size
    steps: int
    batch_size: int
    lr: float
    warmup_steps: int
    seed: int = 20250


RECIPES = {
    "arithmetic": Recipe(
        size=Size(layers=4, width=64, heads=4, kv_heads=4),
        steps=900,
        batch_size=128,
        lr=3e-3,
        warmup_steps=100,
    ),
    "gsm8k": Recipe(
        size=Size(layers=4, width=96, heads=4, kv_heads=4),
        steps=600,
        batch_size=16,
        lr=2e-3,
        warmup_steps=100,
    ),
}


@dataclass(frozen=True)
class Schooling:
    """What the teacher is taught with: every training row of the data set, whatever a trial's subset_size."""

    dataset: str
    train: Sequence[Example]
    held_out: Sequence[Example]
    vocabulary: Any

    @classmethod
    def of(cls, config: DistillConfig, splits: Splits) -> Schooling:
        vocabulary = load_tokenizer(BUILTIN_TEACHER, config.dataset, splits.everything)
        return cls(config.dataset, splits.everything, splits.held_out, vocabulary)

    @property
    def key(self) -> str:
        """Sixteen hex digits over recipe, rows and tokenizer."""
        parts = [asdict(RECIPES[self.dataset]), set_hash(self.train), tokenizer_hash(self.vocabulary)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def locate(schooling: Schooling) -> Path | None:
    """The folder of the teacher for these rows, packaged or cached; None where it is still to be trained."""
    for folder in (PACKAGED, cache_dir() / f"tiny-teacher-{schooling.key}"):
        if _card(folder).get("key") == schooling.key:
            return folder
    return None


def _card(folder: Path) -> dict[str, Any]:
    """card.json of a teacher; empty where none can be used, and the teacher is then trained anew."""
    try:
        return read_object(folder / "card.json", CARD)
    except (FileNotFoundError, CorruptFile):
        return {}


def share(config: DistillConfig, cache: Path) -> None:
    """Copy the trained teacher of a config's rows into another cache folder; a packaged one needs no copy."""
    schooling = Schooling.of(config, load_examples(config))
    folder = locate(schooling)
    if folder in (None, PACKAGED) or (cache / folder.name).exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=cache))
    shutil.copytree(folder, made, dirs_exist_ok=True)
    made.chmod(0o755)
    try:
        made.rename(cache / folder.name)
    except OSError:  # another run was quicker, with the same weights
        shutil.rmtree(made)


def load_builtin_teacher(schooling: Schooling) -> Reader:
    """The trained teacher, its weights checked against its card; InputError where missing or damaged."""
    folder = locate(schooling)
    if folder is None:
        raise InputError(
            "--teacher_name tiny-teacher has not been trained for these rows yet: "
            "kvtune run and kvtune train do that once before the first trial."
        )
    reader = Reader(from_pretrained(str(folder), "--teacher_name"), "--teacher_name")
    if weights_hash(reader.lm) != _card(folder)["weights"]:
        raise InputError(
            f"the weights of tiny-teacher in {folder} are damaged: delete the folder, and run again."
        )
    return reader


def ensure_teacher(config: DistillConfig, progress: Progress) -> float:
    """Train and cache the built-in teacher where it is missing; its exact match on held-out problems.

    Raises InputError when it cannot solve the built-in task, before any trial starts.
    """
    schooling = Schooling.of(config, load_examples(config))
    folder = locate(schooling)
    if folder is None:
        folder = cache_dir() / f"tiny-teacher-{schooling.key}"
        train_teacher(schooling, folder, progress)
    card = _card(folder)
    required = REQUIRED_ACCURACY.get(config.dataset, 0.0)
    accuracy = solve_rate(load_builtin_teacher(schooling), schooling, schooling.held_out[:256])
    progress(
        f"teacher tiny-teacher solves {accuracy:.1%} of 256 held-out problems (weights {card['weights']})"
    )
    if accuracy < required:
        raise InputError(
            f"--teacher_name tiny-teacher solves {accuracy:.1%} of the held-out problems, "
            f"{required:.0%} are needed: delete {folder}, and run again."
        )
    return accuracy


def train_teacher(schooling: Schooling, folder: Path, progress: Progress) -> None:
    """Train by the data set's recipe and write config, weights and card to `folder`, all or nothing."""
    recipe = RECIPES[schooling.dataset]
    lm = from_config(
        llama_config(recipe.size, schooling.vocabulary), stream_seed(recipe.seed, "teacher_init")
    )
    reader = Reader(lm, "--teacher_name")
    progress(
        f"training tiny-teacher once for {schooling.dataset}, which takes minutes and is kept in {folder}: "
        f"{recipe.steps} steps of {recipe.batch_size} rows"
    )
    _fit(reader, encode(schooling.train, schooling.vocabulary), schooling, recipe, progress)
    card = {
        "key": schooling.key,
        "dataset": schooling.dataset,
        "recipe": asdict(recipe),
        "weights": weights_hash(reader.lm),
        "accuracy": solve_rate(reader, schooling, schooling.held_out),
        "held_out_problems": len(schooling.held_out),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    disable_progress_bar()
    reader.lm.save_pretrained(made)
    (made / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    made.chmod(0o755)  # mkdtemp's folder is its maker's alone
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(made, folder)


def _fit(
    reader: Reader, rows: Sequence[Encoded], schooling: Schooling, recipe: Recipe, progress: Progress
) -> None:
    optimizer = torch.optim.AdamW(reader.parameters(), lr=recipe.lr, weight_decay=0.0)
    falls_from = recipe.steps * 2 // 3
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            1.0, (step + 1) / recipe.warmup_steps, (recipe.steps - step) / (recipe.steps - falls_from)
        ),
    )
    step, epoch, began = 0, 0, time.monotonic()
    while step < recipe.steps:
        for index in batches(len(rows), recipe.batch_size, recipe.seed, epoch)[: recipe.steps - step]:
            batch = collate([rows[i] for i in index], schooling.vocabulary.pad_token_id)
            per_row, _, _ = explicit_loss(read_whole(reader, batch), batch)
            optimizer.zero_grad()
            per_row.mean().backward()
            torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step == FIRST_TOLD or step % TOLD_EVERY == 0:
                left = (time.monotonic() - began) / step * (recipe.steps - step)
                said = f"CE={per_row.mean():.4f}, {_span(left)} left"
                progress(f"  teacher step {step}/{recipe.steps}: {said}")
        epoch += 1


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@torch.no_grad()
def solve_rate(
    reader: Reader, schooling: Schooling, problems: Sequence[Example], batch_size: int = 128
) -> float:
    """Share of `problems` whose answer, decoded greedily after the model's own chain of thought, is right."""
    rows = encode(problems, schooling.vocabulary)
    right = 0
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size]
        batch = collate(chunk, schooling.vocabulary.pad_token_id)
        prefix, _ = read_prompt(reader, batch.question_ids, batch.question_mask)
        limit = max(len(row.chain) + len(row.answer) for row in chunk) + 8
        written = write_on(reader, prefix, eos_id=schooling.vocabulary.eos_token_id, limit=limit)
        for ids, problem in zip(written, problems[start : start + batch_size], strict=True):
            right += parse_answer(schooling.vocabulary.decode(ids), schooling.dataset) == problem.answer
    return right / len(rows)


if __name__ == "__main__":
    builtin = DistillConfig(model_name="tiny-llama", dataset="arithmetic", eval_size=1000)
    train_teacher(Schooling.of(builtin, load_examples(builtin)), PACKAGED, print)
