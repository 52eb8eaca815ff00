"""What is comparable between arms, measured on held-out rows: cross-entropy, accuracy, likeness of caches.

Caches are compared as they are, never through a trained aligner: an aligner can make any two look alike.
Dimension key: see kv_cache.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.batches import Batch
from trainables.capture import read_prompt, write_on
from trainables.config import DistillConfig
from trainables.data import parse_answer
from trainables.device import widened
from trainables.kv_cache import KVCache, concatenated
from trainables.latent import think
from trainables.rows import Rows
from trainables.step import Distillation
from trainables.tokenizers import Encoded

CACHE_SAMPLES = 1024
"""Positions (rows x chain or latent positions) on which caches are compared; unbiased CKA wants over 500."""
SLACK = 8
"""Tokens that a student may write beyond the longest right answer of all held-out rows."""
RIDGE = 1e-3
"""The probe's penalty, relative to the mean eigenvalue of the features' covariance."""


@dataclass(frozen=True)
class Prediction:
    """One held-out problem, answered."""

    item_id: str
    correct: bool
    prediction: str | None
    """The parsed answer; None where nothing could be parsed."""
    reference: str


@torch.no_grad()
def evaluate(
    distillation: Distillation, rows: Rows, vocabulary: Any
) -> tuple[dict[str, float], list[Prediction]]:
    """Held-out metrics and every single prediction.

    eval_ce: nats per token that the student itself must produce (the answer; chain of thought and answer
    for the same-sequence student, whose answer is a copy once the chain is given). eval_accuracy: exact
    match after greedy decoding from the question alone. kv_cka*, probe_r2: likeness of the caches.
    """
    nats, tokens = 0.0, 0
    predictions: list[Prediction] = []
    caches: list[KVCache] = []
    compared, size = compared_rows(rows, distillation.config), distillation.config.eval_batch_size
    limit = max(_to_write(row, distillation) for row in rows.student) + SLACK
    for start in range(0, len(rows), size):
        index = range(start, min(start + size, len(rows)))
        batch, _ = rows.batch(index, distillation.layers.device)
        work = distillation.work(batch)
        nats += float(widened(work.nats).sum())
        tokens += int(work.tokens.sum())
        if start < len(compared):
            caches.append(work.cache.rows(torch.arange(min(size, len(compared) - start))))
        written = _write(distillation, batch, vocabulary.eos_token_id, limit)
        for i, ids in zip(index, written, strict=True):
            said = parse_answer(vocabulary.decode(ids), distillation.config.dataset)
            example = rows.examples[i]
            predictions.append(Prediction(example.item_id, said == example.answer, said, example.answer))
    right = sum(prediction.correct for prediction in predictions)
    metrics = {"eval_ce": nats / tokens, "eval_accuracy": right / len(predictions)}
    return {**metrics, **compare_caches(distillation, rows, concatenated(caches))}, predictions


def _to_write(row: Encoded, distillation: Distillation) -> int:
    """Tokens that a right answer takes, after the chain of thought where that is written too."""
    return len(row.answer) + (len(row.chain) if distillation.latent is None else 0)


def _write(distillation: Distillation, batch: Batch, eos_id: int, limit: int) -> list[list[int]]:
    student, config = distillation.student, distillation.config
    asked = batch.question_ids, batch.question_mask
    with distillation.precision():
        if distillation.latent is None:
            prefix, _ = read_prompt(student, *asked)
        else:
            latent, iterations = distillation.latent, config.latent_iterations
            prefix = think(student, latent, *asked, config.target_len, iterations).prefix
        return write_on(student, prefix, eos_id=eos_id, limit=limit)


def compared_rows(rows: Rows, config: DistillConfig) -> range:
    """The first held-out rows, as many as make CACHE_SAMPLES positions."""
    longest = max(len(row.chain) for row in rows.student)
    per_row = config.target_len if config.student == "latent" else longest
    return range(min(len(rows), max(4, CACHE_SAMPLES // per_row)))


@torch.no_grad()
def compare_caches(distillation: Distillation, rows: Rows, mine: KVCache) -> dict[str, float]:
    """CKA, ridge probe and the state of the KV loss's target, by the student's cache of compared_rows."""
    shown = distillation.show(rows, compared_rows(rows, distillation.config))
    mine = mine.resized(shown.chain.keys.shape[3])  # its batches held rows that are not compared, too
    _, target = distillation.compared(mine, shown.lesson)
    cka: dict[str, float] = {}
    r2: dict[str, float] = {}
    for part in ("keys", "values"):
        pairs = list(_samples(mine, shown.chain, part))
        cka[part] = sum(unbiased_cka(x, y) for x, y in pairs) / len(pairs)
        r2[part] = sum(probe_r2(x, y) for x, y in pairs) / len(pairs)
    return {
        "kv_cka": (cka["keys"] + cka["values"]) / 2,
        "kv_cka_keys": cka["keys"],
        "kv_cka_values": cka["values"],
        "probe_r2": (r2["keys"] + r2["values"]) / 2,
        **target_state(target),
    }


def _samples(student: KVCache, teacher: KVCache, part: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Per layer, the real positions of both caches as samples [n, H*D] less each position's mean over rows.

    Two models that read the same words have alike means at every position, whatever they understood; left
    in, those means make any two caches look alike.
    """
    mask = student.full_mask[:, 0, 0] & teacher.full_mask[:, 0, 0]
    for layer in range(student.keys.shape[1]):
        both = (getattr(cache, part)[:, layer] for cache in (student, teacher))
        sides = (widened(states.transpose(1, 2).flatten(2)) for states in both)
        x, y = (_without_position_means(side, mask)[mask] for side in sides)
        yield x, y


def _without_position_means(states: Tensor, mask: Tensor) -> Tensor:
    """`states` [B T F] less their mean over the rows in which a position is real (mask [B T])."""
    real = torch.where(mask[..., None], states, 0.0)
    mean = real.sum(0) / mask.sum(0).clamp_min(1)[:, None]
    return real - mean


def unbiased_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of samples [n F] and [n G] with the unbiased HSIC_1: near 0 for unrelated ones at any width.

    Source: Song et al. 2012 (the estimator), Kornblith et al. 2019 (CKA). 0 where a side does not vary.
    """
    gram_x, gram_y = (side @ side.T for side in (x, y))
    self_x, self_y = _hsic(gram_x, gram_x), _hsic(gram_y, gram_y)
    if self_x <= 0 or self_y <= 0:
        return 0.0
    return _hsic(gram_x, gram_y) / (self_x * self_y) ** 0.5


def _hsic(k: Tensor, l: Tensor) -> float:
    n = len(k)
    k, l = (gram - torch.diag(gram.diagonal()) for gram in (k, l))
    trace = (k * l).sum()
    product = k.sum() * l.sum() / ((n - 1) * (n - 2))
    cross = 2 * (k.sum(0) @ l.sum(0)) / (n - 2)
    return float(trace + product - cross) / (n * (n - 3))


def probe_r2(x: Tensor, y: Tensor) -> float:
    """R2 of a ridge probe from student samples [n F] to standardised teacher samples [n G].

    Fitted on the first half of the samples, scored on the second; the same probe for every arm.
    """
    half = len(x) // 2
    spread = y[:half].std(0).clamp_min(1e-8)
    x_fit, x_new, y_fit, y_new = x[:half], x[half:], y[:half] / spread, y[half:] / spread
    covariance = x_fit.T @ x_fit
    penalty = RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
    weights = torch.linalg.solve(covariance + penalty * torch.eye(len(covariance)).to(x), x_fit.T @ y_fit)
    return 1.0 - float((y_new - x_new @ weights).square().sum() / y_new.square().sum().clamp_min(1e-12))


def target_state(target: KVCache) -> dict[str, float]:
    """Whether the KV loss's target has collapsed: its root mean square and its effective rank per layer.

    Effective rank: exp of the entropy of the normalised singular values, keys and values averaged.
    """
    mask = target.full_mask[:, 0, 0]
    squares, ranks = [], []
    for side in (target.keys, target.values):
        for layer in widened(side).unbind(1):
            states = layer.transpose(1, 2).flatten(2)[mask]
            squares.append(float(states.square().mean()))
            weights = torch.linalg.svdvals(states - states.mean(0))
            weights = weights / weights.sum().clamp_min(1e-12)
            ranks.append(float(torch.exp(torch.special.entr(weights).sum())))
    return {"target_rms": (sum(squares) / len(squares)) ** 0.5, "target_rank": sum(ranks) / len(ranks)}
