from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

from trainables.capture import FAMILIES, Reader, cache_shape, check_capture, family_of, read_prompt, write_on
from trainables.config import InputError
from trainables.kv_cache import CacheShape

SIZES: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=30, n_embd=24, n_layer=2, n_head=4, n_positions=64),
    "llama": LlamaConfig(**SIZES, head_dim=10),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=10),
}


def reader_of(family: str) -> Reader:
    torch.manual_seed(0)
    return Reader(AutoModelForCausalLM.from_config(CONFIGS[family])).eval()


def read(reader: Reader, ids: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    return reader.read(ids, mask, torch.arange(ids.shape[1]).expand_as(ids))


def test_every_family_has_a_config_to_be_tested_with() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_hooked_keys_once_rotated_are_the_keys_of_transformers_cache(family: str) -> None:
    check_capture(reader_of(family), torch.randint(0, 30, (2, 7)))


@pytest.mark.parametrize("family", FAMILIES)
def test_rotated_queries_and_keys_give_the_attention_that_the_model_computes(family: str) -> None:
    reader = reader_of(family)
    ids = torch.randint(0, 30, (1, 6))
    got = read(reader, ids)
    reader.lm.set_attn_implementation("eager")
    out = reader.lm(input_ids=ids, output_attentions=True)

    queries, keys = (reader.rotate(states, got.positions) for states in (got.queries, got.keys))
    group = queries.shape[2] // keys.shape[2]
    logits = queries @ keys.repeat_interleave(group, dim=2).transpose(-1, -2) / queries.shape[-1] ** 0.5
    causal = torch.ones(6, 6).tril().bool()
    ours = logits.masked_fill(~causal, -torch.inf).softmax(-1)

    torch.testing.assert_close(ours[:, 0], out.attentions[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours[:, 1], out.attentions[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_the_right_changes_no_real_position(family: str) -> None:
    reader = reader_of(family)
    ids = torch.randint(0, 30, (2, 5))
    padded = torch.cat([ids, torch.full((2, 3), 7)], dim=1)
    mask = torch.tensor([[True] * 5 + [False] * 3] * 2)

    plain, wide = read(reader, ids), read(reader, padded, mask)

    torch.testing.assert_close(wide.logits[:, :5], plain.logits, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(wide.keys[:, :, :, :5], plain.keys, atol=1e-6, rtol=1e-5)


def test_the_cache_shape_counts_key_value_heads_and_a_free_head_dim() -> None:
    assert cache_shape(CONFIGS["llama"]) == CacheShape(2, 2, 10)
    assert cache_shape(CONFIGS["gpt2"]) == CacheShape(2, 4, 6)


def test_attention_that_slides_over_a_window_is_refused_by_name() -> None:
    sliding = Qwen2Config(use_sliding_window=True, sliding_window=4, max_window_layers=1, num_hidden_layers=2)

    with pytest.raises(InputError, match="--model_name is a 'qwen2' model whose attention slides"):
        family_of(sliding, "--model_name")
    assert family_of(Qwen2Config(num_hidden_layers=2), "--model_name")


def test_a_family_without_an_adapter_is_refused_by_name() -> None:
    class Mamba:
        model_type = "mamba"

    with pytest.raises(InputError, match=r"--teacher_name is a 'mamba' model.*gpt2, llama, qwen2, qwen3"):
        family_of(Mamba(), "--teacher_name")


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_from_padded_prompts_equals_transformers_generate(family: str) -> None:
    reader = reader_of(family)
    prompts = [torch.randint(0, 29, (length,)) for length in (3, 6)]
    ids = torch.zeros(2, 6, dtype=torch.long)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True

    prefix, _ = read_prompt(reader, ids, mask)
    ours = write_on(reader, prefix, eos_id=29, limit=8)

    for prompt, written in zip(prompts, ours, strict=True):
        theirs = reader.lm.generate(
            prompt[None], max_new_tokens=8, do_sample=False, eos_token_id=29, pad_token_id=0
        )[0, len(prompt) :].tolist()
        assert written == (theirs[: theirs.index(29)] if 29 in theirs else theirs)
