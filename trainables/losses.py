"""What is minimised, and what the distillation target is measured in. Every loss is one number a row, [B].

Rows are kept apart so that a trial can log, weight and test them singly; the step takes their mean. Losses
are computed in float32 (float64 stays). Masked places may hold anything, inf and nan too: it reaches neither
a value nor a gradient. A row with nothing to compare gives 0 and keeps its gradient path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import unknown
from trainables.device import widened, widest
from trainables.kv_cache import KVCache

KV_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth_l1": partial(F.smooth_l1_loss, reduction="none", beta=1.0),
    "mse": partial(F.mse_loss, reduction="none"),
    "l1": partial(F.l1_loss, reduction="none"),
}
"""Elementwise distances of two tensors of one shape."""

STD_FLOOR = 0.01
"""Least deviation of a dimension, in parts of its layer's mean: a nearly constant one is not blown up."""


def kv_loss(predicted: KVCache, target: KVCache, *, kind: str) -> Tensor:
    """Mean distance of keys and of values, half each, over the entries that are real in both caches: [B].

    Both caches are [B L H T D]. The mean runs over a row's real (layer, head, slot, dimension), so that a
    short chain of thought weighs as much as a long one. Nothing is detached here.
    Source: KaVa (arXiv:2510.02312), L_KV with p = 1 (smooth L1) or p = 2.
    """
    if kind not in KV_LOSSES:
        raise unknown("--kv_loss", kind, KV_LOSSES)
    if predicted.keys.shape != target.keys.shape:
        raise ValueError(
            f"kv_loss compares caches of one shape [B L H T D]: predicted {tuple(predicted.keys.shape)}, "
            f"target {tuple(target.keys.shape)}. Select and align them first."
        )
    real = predicted.full_mask & target.full_mask
    keys = _row_mean(KV_LOSSES[kind], predicted.keys, target.keys, real)
    values = _row_mean(KV_LOSSES[kind], predicted.values, target.values, real)
    return (keys + values) / 2


def _row_mean(
    distance: Callable[[Tensor, Tensor], Tensor], predicted: Tensor, target: Tensor, real: Tensor
) -> Tensor:
    # The inputs are replaced, not the distances: 0 * nan is nan, and so is its gradient.
    seen = real[..., None]
    each = distance(_wide(predicted).where(seen, 0), _wide(target).where(seen, 0))
    count = real.sum((1, 2, 3)).clamp(min=1) * predicted.shape[-1]
    return (each.sum((1, 2, 3, 4), dtype=widest(each.device)) / count).to(each.dtype)


def answer_loss(logits: Tensor, labels: Tensor, mask: Tensor, real: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy in nats: mean per real token [B], sum [B], and the number of real tokens [B] (int64).

    `logits` [B T V] at a place predict the label [B T] of the same place: shift before. Labels where `mask`
    (bool [B T]) is False are never read, so -100 may stand there. `real` is how many places are True, which
    the host must know: asking the mask would wait for the device. Only the real tokens' logits are widened
    to float32, which is what a large vocabulary can afford.
    """
    places = mask.flatten().int().argsort(descending=True, stable=True)[:real]  # the real ones, in order
    at = places // mask.shape[1], places % mask.shape[1]
    nats = F.cross_entropy(_wide(logits[at]), labels[at], reduction="none")  # [real]
    by_place = nats.new_zeros(mask.shape).index_put(at, nats)  # [B T]
    total = by_place.sum(1, dtype=widest(nats.device))  # the order of a longer sum must not show
    count = mask.sum(1)
    return (total / count.clamp(min=1)).to(nats.dtype), total.to(nats.dtype), count


def hidden_state_loss(student: Tensor, teacher: Tensor, scale: Tensor) -> Tensor:
    """Smooth L1 of (student - teacher) / scale, mean over layers and width: [B].

    `student` and `teacher` are hidden states [B L W] at the one position just before the answer, `scale` [L]
    the teacher's standard deviation per layer, above 0 and frozen, so that no layer counts for more because
    its numbers are larger. The teacher is detached.
    Source: CODI (arXiv:2502.21074), whose code divides the loss by the batch's own deviation, once for smooth
    L1 and twice for MSE. Dividing the difference agrees with that where smooth L1 is linear, and does not
    depend on the layer's units where it is quadratic.
    """
    if student.shape != teacher.shape or scale.shape != student.shape[1:2]:
        raise ValueError(
            "hidden_state_loss takes student and teacher of one shape [B L W] and scale [L]: "
            f"got {tuple(student.shape)}, {tuple(teacher.shape)} and {tuple(scale.shape)}."
        )
    scale = _wide(scale.detach())[:, None]
    student, teacher = _wide(student) / scale, _wide(teacher.detach()) / scale
    return KV_LOSSES["smooth_l1"](student, teacher).mean((1, 2))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class Standardiser(nn.Module):
    """Subtracts a mean and divides by a deviation, both fixed, per layer, head and dimension: [L H 1 D].

    Fitted once on the teacher and frozen, so that the target is a constant of the run: a target that is
    normalised per batch, or learned, can shrink to please its own loss. Its state_dict holds four tensors,
    and `Standardiser(**tensors)` makes it again.
    """

    keys_mean: Tensor
    keys_std: Tensor
    values_mean: Tensor
    values_std: Tensor

    def __init__(
        self, *, keys_mean: Tensor, keys_std: Tensor, values_mean: Tensor, values_std: Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("keys_mean", keys_mean)
        self.register_buffer("keys_std", keys_std)
        self.register_buffer("values_mean", values_mean)
        self.register_buffer("values_std", values_std)

    def forward(self, cache: KVCache) -> KVCache:
        """The cache [B L H T D] in units of the fitted one, float32 or wider; the mask stays."""
        if (
            cache.keys.shape[1:3] != self.keys_mean.shape[:2]
            or cache.keys.shape[4] != self.keys_mean.shape[3]
        ):
            layers, heads, _, head_dim = self.keys_mean.shape
            raise ValueError(
                f"this standardiser was fitted on {layers} layers x {heads} key-value heads x {head_dim}, "
                f"got a cache of {cache.shape}."
            )
        keys = (_wide(cache.keys) - self.keys_mean) / self.keys_std
        return KVCache(keys, (_wide(cache.values) - self.values_mean) / self.values_std, cache.mask)

    @classmethod
    @torch.no_grad()
    def fit(cls, caches: Iterable[KVCache]) -> Standardiser:
        """Mean and standard deviation over all real positions of `caches`, accumulated in float64.

        The caches are looked at one by one, and none is kept. A deviation is at least STD_FLOOR of its
        layer's mean one, and 1 throughout a layer that is constant.
        """
        keys, values = _Moments(), _Moments()
        for cache in caches:
            keys.add(cache.keys, cache.full_mask)
            values.add(cache.values, cache.full_mask)
        (keys_mean, keys_std), (values_mean, values_std) = keys.finish(), values.finish()
        return cls(keys_mean=keys_mean, keys_std=keys_std, values_mean=values_mean, values_std=values_std)


class _Moments:
    """Count [L H 1 1], mean and squared deviations' sum [L H 1 D], merged batch by batch: no cancellation."""

    def __init__(self) -> None:
        self.count = self.mean = self.squares = torch.zeros(1, 1, 1, 1)

    def add(self, x: Tensor, real: Tensor) -> None:
        """Take in a batch [B L H T D], layer by layer: only one layer of it is ever widened."""
        layers = zip(x.unbind(1), real.unbind(1), strict=True)
        moments = zip(*(_moments(layer, seen[..., None]) for layer, seen in layers), strict=True)
        self._merge(*(torch.stack(parts) for parts in moments))

    def _merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        before, known, so_far = (part.to(count) for part in (self.count, self.mean, self.squares))
        step = mean - known
        self.count = before + count
        share = count / self.count.clamp(min=1)
        self.squares = so_far + squares + step.square() * before * share
        self.mean = mean - step * (1 - share)

    def finish(self) -> tuple[Tensor, Tensor]:
        if not (self.count > 1).all():
            raise ValueError(
                "the standardiser needs at least two real positions of every layer and head, "
                f"got as few as {int(self.count.min())}: calibrate on more rows."
            )
        std = (self.squares / self.count).sqrt()
        std = torch.maximum(std, STD_FLOOR * std.mean((1, 2, 3), keepdim=True))
        return self.mean.float(), std.where(std > 0, 1).float()


def _moments(x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count [H 1 1], mean and squared deviations' sum [H 1 D] of one layer [B H T D] where seen [B H T 1]."""
    x = widened(x).where(seen, 0)
    count = seen.sum((0, 2), dtype=x.dtype)[:, None]
    mean = x.sum((0, 2))[:, None] / count.clamp(min=1)
    return count, mean, (x - mean).where(seen, 0).square().sum((0, 2))[:, None]
