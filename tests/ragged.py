"""Rows of many lengths and models of random weights: what the arithmetic task, of one length, cannot show."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from trainables.models import Size, from_config, llama_config
from trainables.tokenizers import BPE_EOS, BPE_PAD, train_bpe


def ragged_fields(folder: Path) -> dict[str, Any]:
    """Fields of a config: 60 rows in GSM8K's format of many lengths, and two models of one tokenizer."""
    rng = random.Random(0)
    rows = [ragged_row(rng, number) for number in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [f"{row['question']}\n{row['answer']}" for row in rows]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(texts), eos_token=BPE_EOS, pad_token=BPE_PAD
    )
    for name, size in {
        "student": Size(layers=2, width=24, heads=2, kv_heads=1),
        "teacher": Size(layers=4, width=32, heads=4, kv_heads=2),
    }.items():
        from_config(llama_config(size, tokenizer), seed=size.layers).save_pretrained(folder / name)  # type: ignore[operator]
        tokenizer.save_pretrained(folder / name)
    return {
        "dataset": "gsm8k",
        "train_file": str(folder / "rows.jsonl"),
        "model_name": str(folder / "student"),
        "teacher_name": str(folder / "teacher"),
        "subset_size": None,
        "eval_size": 6,
    }


def ragged_row(rng: random.Random, number: int) -> dict[str, str]:
    steps = [
        f"<<{a}+{b}={a + b}>>{a + b}"
        for a, b in ((rng.randrange(99), rng.randrange(99)),) * rng.randint(1, 9)
    ]
    words = " ".join(rng.choice(["Ana", "has", "apples", "and", "pears"]) for _ in range(rng.randint(3, 40)))
    return {"question": f"{number}: {words}?", "answer": " ".join(steps) + f" #### {rng.randrange(10**4)}"}
