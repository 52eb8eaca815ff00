"""Checkpoints: weights, optimizer and progress as safetensors and JSON, sealed by a manifest of hashes.

No random state is kept: every stream follows from (seed, name, step), so the step is all there is to know.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.config import InputError
from trainables.json_files import read_object
from trainables.step import Distillation
from trainables.trial_folder import TrialFolder, is_intact

OVERHEAD = 2**17
"""Bytes of a checkpoint beside its tensors, at most: names, progress, manifest, blocks not filled."""


@dataclass
class Progress:
    """How far a trial is."""

    config_hash: str
    step: int = 0
    tokens: int = 0
    """Real tokens of question, chain and answer read so far."""
    wall_s: float = 0.0
    """Training time of all attempts so far."""
    data_order_hash: str = ""
    """Chained over the item ids of every step."""


def save(
    folder: TrialFolder, distillation: Distillation, optimizer: torch.optim.Optimizer, progress: Progress
) -> Path:
    """Write checkpoint-STEP: complete in a folder beside it first, then renamed into place."""
    weights, state = _tensors(distillation), _optimizer_tensors(optimizer)
    size = sum(tensor.nbytes for tensor in (*weights.values(), *state.values()))
    with folder.new_checkpoint(progress.step, size + OVERHEAD) as made:
        save_file(weights, made / "weights.safetensors")
        save_file(state, made / "optimizer.safetensors")
        (made / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n")
    return folder.checkpoint(progress.step)


def load(
    path: str | Path, distillation: Distillation, optimizer: torch.optim.Optimizer, config_hash: str
) -> Progress:
    """Put weights and optimizer back as they were, to the bit.

    Raises InputError when the checkpoint is damaged or belongs to another config.
    """
    path = Path(path)
    if not is_intact(path):
        raise InputError(
            f"checkpoint {path} is incomplete or damaged: resume from an earlier one, or start anew."
        )
    progress = Progress(**read_object(path / "progress.json"))
    if progress.config_hash != config_hash:
        raise InputError(
            f"checkpoint {path} belongs to another config ({progress.config_hash}, not {config_hash}): "
            "choose another --output_dir, or delete the checkpoint."
        )
    saved = load_file(path / "weights.safetensors")
    with torch.no_grad():
        for name, tensor in _tensors(distillation).items():
            tensor.copy_(saved[name])
    _load_optimizer(optimizer, load_file(path / "optimizer.safetensors"))
    return progress


def _tensors(distillation: Distillation) -> dict[str, Tensor]:
    """Every parameter once (tied ones share a name) and the yardstick's constants."""
    constants = {f"yardstick.{name}": buffer for name, buffer in distillation.yardstick.named_buffers()}
    return {**{name: p.data for name, p in distillation.named_parameters()}, **constants}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, entry in state.items() for name, tensor in entry.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
