"""Students and teachers: from the hub, from a local folder, or built in.

A built-in student is small enough for a CPU and starts from random weights. The built-in teacher is
larger and trained (builtin_teacher.py). Weights come only as safetensors, and no remote code is run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from trainables.capture import Reader, family_of
from trainables.config import BUILTIN_STUDENTS, BUILTIN_TEACHER, DistillConfig, InputError
from trainables.hub import hub_reachable
from trainables.streams import stream_seed

POSITIONS = 512
"""Positions of the built-in models."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A built-in Llama's size. head_dim follows from width and heads."""

    layers: int
    width: int
    heads: int
    kv_heads: int


STUDENT_SIZE = Size(layers=3, width=48, heads=4, kv_heads=2)


def llama_config(size: Size, vocabulary: Any) -> PreTrainedConfig:
    """A Llama of `size` (rotary positions, grouped-query where kv_heads < heads) for a tokenizer."""
    return LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=size.width,
        intermediate_size=3 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=POSITIONS,
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
        pad_token_id=None,
    )


def gpt2_config(size: Size, vocabulary: Any) -> PreTrainedConfig:
    """A GPT-2 of `size` (absolute positions; as many key-value heads as heads) without dropout."""
    return GPT2Config(
        vocab_size=len(vocabulary),
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        n_positions=POSITIONS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
    )


def builtin_config(name: str, vocabulary: Any) -> PreTrainedConfig:
    """The transformers config of the built-in student `name`."""
    return {"tiny-gpt2": gpt2_config, "tiny-llama": llama_config}[name](STUDENT_SIZE, vocabulary)


def from_config(config: PreTrainedConfig, seed: int) -> nn.Module:
    """A model with random weights that follow from `seed` alone; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def read_config(name: str, flag: str) -> PreTrainedConfig:
    """The config of a hub name or a local folder, without its weights; InputError names the flag."""
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=_offline(name))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{flag} {name!r} could not be read as a model: {_first_line(error)} Give a folder saved by "
            f"save_pretrained, a hub name that this machine can reach, or a built-in: "
            f"{', '.join((*BUILTIN_STUDENTS, BUILTIN_TEACHER))}."
        ) from error


def from_pretrained(name: str, flag: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The weights of a hub name or a local folder; InputError names the flag."""
    family_of(read_config(name, flag), flag)
    disable_progress_bar()
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=_offline(name),
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{flag} {name!r}: its weights could not be read: {_first_line(error)}") from error
    return model


def load_student(config: DistillConfig, vocabulary: Any) -> Reader:
    """The student, ready to train; built-ins start from the trial's student_init stream."""
    if config.model_name in BUILTIN_STUDENTS:
        student = builtin_config(config.model_name, vocabulary)
        return Reader(from_config(student, stream_seed(config.seed, "student_init")))
    return Reader(from_pretrained(config.model_name, "--model_name"))


def weights_hash(module: nn.Module) -> str:
    """Sixteen hex digits over every parameter's name and bytes."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _offline(name: str) -> bool:
    """Whether to look on this machine only: for folders, and where the hub does not answer (asked once)."""
    return Path(name).exists() or not hub_reachable()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
