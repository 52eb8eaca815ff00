"""How much room a trial's checkpoints take. Of a built-in student that is known without loading torch."""

from __future__ import annotations

from trainables.config import BUILTIN_STUDENTS, DistillConfig


def checkpoint_bytes(config: DistillConfig) -> int:
    """Bytes that one checkpoint takes at least: the student's weights and AdamW's two moments, in float32.

    0 for the built-in students, which take about a megabyte.
    """
    if config.model_name in BUILTIN_STUDENTS:
        return 0
    import torch
    from transformers import AutoModelForCausalLM

    from trainables.aligners import parameter_count
    from trainables.models import read_config

    with torch.device("meta"):
        student = AutoModelForCausalLM.from_config(read_config(config.model_name, "--model_name"))
    return 3 * 4 * parameter_count(student)
