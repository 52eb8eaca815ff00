"""Read a causal language model and keep what passes through its attention: keys, values, queries.

Keys are taken before rotary embedding, by hooks in the very forward pass that yields the logits, so
that gradients flow and nothing is computed twice. Dimension key: see kv_cache.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import InputError
from trainables.kv_cache import CacheShape


@dataclass(frozen=True)
class Family:
    """How one family of models names what the capture needs."""

    backbone: str
    """Attribute of the language model that holds the blocks."""
    blocks: str
    """Attribute of the backbone: the list of blocks."""
    attention: str
    """Attribute of a block: its attention."""
    keys: str
    """Module whose output is the keys before rotary embedding; c_attn when all three come in one."""
    queries: str
    values: str
    rotary: bool
    positions: str
    """Field of the config: how many positions the model takes."""


_GPT2 = Family("transformer", "h", "attn", "c_attn", "c_attn", "c_attn", False, "n_positions")
_LLAMA = Family("model", "layers", "self_attn", "k_proj", "q_proj", "v_proj", True, "max_position_embeddings")
_QWEN3 = Family("model", "layers", "self_attn", "k_norm", "q_norm", "v_proj", True, "max_position_embeddings")

FAMILIES: dict[str, Family] = {"gpt2": _GPT2, "llama": _LLAMA, "qwen2": _LLAMA, "qwen3": _QWEN3}


def family_of(config: Any, flag: str) -> Family:
    """The family of a transformers config, or an InputError that lists those with an adapter."""
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        raise InputError(
            f"{flag} is a {kind!r} model, which has no adapter here: take a model of one of the families "
            f"{', '.join(sorted(FAMILIES))}, or add a line to FAMILIES in trainables/capture.py."
        )
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise InputError(
            f"{flag} is a {kind!r} model whose attention slides over a window, without a mask for it here: "
            "take a model with full attention in every layer (use_sliding_window: false)."
        )
    return FAMILIES[kind]


def cache_shape(config: Any) -> CacheShape:
    """Layers, key-value heads and head_dim of a transformers config (grouped-query and free head_dim too)."""
    heads = config.num_attention_heads
    return CacheShape(
        layers=config.num_hidden_layers,
        heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


@dataclass(frozen=True)
class Pass:
    """One forward pass over T new positions."""

    logits: Tensor
    """[B T V]"""
    hidden: Tensor
    """[B L T W]: the output of every block, the last after the final norm."""
    keys: Tensor
    """[B L H T D] before rotary embedding."""
    values: Tensor
    """[B L H T D]"""
    queries: Tensor
    """[B L H_q T D] before rotary embedding."""
    positions: Tensor
    """[B T]"""
    past: Any
    """transformers' cache after the pass, or None."""

    @property
    def last_hidden(self) -> Tensor:
        """[B T W]"""
        return self.hidden[:, -1]


class Reader(nn.Module):
    """A causal language model that is read with explicit masks and positions and hands on its cache.

    Raises InputError for a family without an adapter.
    """

    def __init__(self, lm: Any, flag: str = "--model_name") -> None:
        super().__init__()
        self.lm: Any = lm
        self.config: Any = self.lm.config
        self.family = family_of(self.config, flag)
        self.lm.set_attn_implementation("sdpa")  # which takes the masks of read() as they are
        self.shape = cache_shape(self.config)

    @property
    def width(self) -> int:
        return int(self.config.hidden_size)

    @property
    def embeddings(self) -> Tensor:
        """The input embedding matrix [V W]."""
        weight: Tensor = self.lm.get_input_embeddings().weight
        return weight

    def read(
        self,
        tokens: Tensor,
        mask: Tensor,
        positions: Tensor,
        *,
        past: Any = None,
        keep_past: bool = False,
    ) -> Pass:
        """Read `tokens`, ids [B T] or embeddings [B T W], after an optional `past`.

        `mask` is bool [B P+T] over past and new positions; `positions` [B T] counts real tokens only,
        so that padding moves nobody. Nothing here waits for the device.
        """
        assert self.config._attn_implementation == "sdpa", "another one would take the mask for numbers"
        name = "input_ids" if tokens.dim() == 2 else "inputs_embeds"
        with self._recorded() as tape:
            out = self.lm(
                **{name: tokens},
                attention_mask=_visible(mask, tokens.shape[1]),
                position_ids=positions,
                past_key_values=past,
                use_cache=keep_past or past is not None,
                output_hidden_states=True,
            )
        queries, keys, values = (self._stack(tape[part], part) for part in ("queries", "keys", "values"))
        hidden = torch.stack(out.hidden_states[1:], dim=1)
        return Pass(out.logits, hidden, keys, values, queries, positions, out.past_key_values)

    def rotate(self, states: Tensor, positions: Tensor) -> Tensor:
        """Rotary embedding of `states` [B L H T D] at `positions` [B T]; none where the family has none."""
        if not self.family.rotary:
            return states
        backbone = getattr(self.lm, self.family.backbone)
        cos, sin = backbone.rotary_emb(states, positions)
        apply = sys.modules[type(backbone).__module__].apply_rotary_pos_emb
        every_head = states.flatten(1, 2)
        rotated: Tensor = apply(every_head, every_head[:, :1], cos, sin)[0]
        return rotated.unflatten(1, states.shape[1:3])

    def _attentions(self) -> Iterator[nn.Module]:
        for block in getattr(getattr(self.lm, self.family.backbone), self.family.blocks):
            yield getattr(block, self.family.attention)

    @contextmanager
    def _recorded(self) -> Iterator[dict[str, list[Tensor]]]:
        tape: dict[str, list[Tensor]] = {"queries": [], "keys": [], "values": []}

        def keep(part: str) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda _module, _inputs, output: tape[part].append(output)

        handles = [
            getattr(attention, getattr(self.family, part)).register_forward_hook(keep(part))
            for attention in self._attentions()
            for part in tape
        ]
        try:
            yield tape
        finally:
            for handle in handles:
                handle.remove()

    def _stack(self, layers: Sequence[Tensor], part: str) -> Tensor:
        """Hooked outputs of all layers as [B L H T D]."""
        if getattr(self.family, part) == "c_attn":
            third = {"queries": 0, "keys": 1, "values": 2}[part]
            layers = [layer.chunk(3, dim=-1)[third] for layer in layers]
        heads = self.config.num_attention_heads if part == "queries" else self.shape.heads
        split = [
            layer.reshape(*layer.shape[:2], heads, self.shape.head_dim).transpose(1, 2) for layer in layers
        ]
        return torch.stack(split, dim=1)


def _visible(mask: Tensor, count: int) -> Tensor:
    """What each of the newest `count` positions sees of all, mask [B P+count]: bool [B 1 count P+count].

    Of a mask [B T] transformers would ask whether all of it is real, and wait for the device's answer.
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    return (places <= places[-count:, None]) & mask[:, None, None, :]


@dataclass(frozen=True)
class Prefix:
    """What a model has read so far, ready to write on."""

    next_logits: Tensor
    """[B V]: the prediction of the next token."""
    past: Any
    """transformers' cache over what was read."""
    mask: Tensor
    """bool [B P] over what the cache holds."""
    length: Tensor
    """[B]: real positions so far, that is, the next token's position."""


def read_prompt(reader: Reader, tokens: Tensor, mask: Tensor) -> tuple[Prefix, Tensor]:
    """Read right-padded prompts, ids [B T] or embeddings [B T W]; also the last real hidden states [B W]."""
    B, T = mask.shape
    read = reader.read(tokens, mask, torch.arange(T, device=mask.device).expand(B, T), keep_past=True)
    length = mask.sum(1)
    last = (torch.arange(B, device=mask.device), length - 1)
    return Prefix(read.logits[last], read.past, mask, length), read.last_hidden[last]


@torch.no_grad()
def write_on(reader: Reader, prefix: Prefix, *, eos_id: int, limit: int) -> list[list[int]]:
    """Greedy decoding after a prefix: at most `limit` tokens a row, cut before the end-of-sequence token."""
    token = prefix.next_logits.argmax(-1)
    mask, position, past = prefix.mask, prefix.length, prefix.past
    written, ended = [token], token == eos_id
    while len(written) < limit and not bool(ended.all()):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        token = reader.read(token[:, None], mask, position[:, None], past=past).logits[:, -1].argmax(-1)
        position = position + 1
        written.append(token)
        ended = ended | (token == eos_id)
    rows: list[list[int]] = torch.stack(written, dim=1).tolist()
    return [row[: row.index(eos_id)] if eos_id in row else row for row in rows]


def check_capture(reader: Reader, tokens: Tensor) -> None:
    """Assert that the hooked keys, rotated here, are those in transformers' own cache."""
    mask = torch.ones_like(tokens, dtype=torch.bool)
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    with torch.no_grad():
        read = reader.read(tokens, mask, positions, keep_past=True)
        ours = reader.rotate(read.keys, positions)
    theirs = torch.stack([layer.keys for layer in read.past.layers], dim=1)
    tolerance = 2e-2 if theirs.dtype == torch.bfloat16 else 1e-4
    worst = (ours.float() - theirs.float()).abs().max() / theirs.float().abs().max().clamp_min(1e-12)
    assert worst < tolerance, f"hooked keys differ from transformers' cache by {worst:.2e}"
