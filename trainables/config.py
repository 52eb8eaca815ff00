"""What one trial is: every setting, its unit and its check. Imports no torch, so flags parse at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from reprlib import repr as short
from typing import Any, Literal, get_args

AlignmentMode = Literal["flat", "structured"]
StudentMode = Literal["latent", "same_sequence"]
KVMethod = Literal["full", "right_crop", "rkv", "random"]
KVLoss = Literal["smooth_l1", "mse", "l1"]
KVDirection = Literal["student_to_teacher", "teacher_to_student_frozen", "teacher_to_student_joint"]
KeySpace = Literal["pre_rope", "post_rope"]
LayerMap = Literal["endpoints", "last_aligned"]
FlatInit = Literal["kronecker", "random"]
Schedule = Literal["constant", "linear", "cosine"]
Dtype = Literal["float32", "bfloat16"]
DatasetName = Literal["arithmetic", "gsm8k"]

BUILTIN_STUDENTS = ("tiny-gpt2", "tiny-llama")
BUILTIN_TEACHER = "tiny-teacher"
SELF = "self"

NOT_PART_OF_THE_RESULT = frozenset(
    {"output_dir", "device", "threads", "save_steps", "save_total_limit", "teacher_cache", "eval_batch_size"}
)
"""Fields that may change without changing what a trial's numbers mean; the config hash leaves them out."""


DIGESTS = {"train_file": "train_sha256", "eval_file": "eval_sha256"}
"""A file's field and that of its content."""


def meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that its trial's numbers follow from; a file counts by its content, where told."""
    moved = {file for file, digest in DIGESTS.items() if config.get(digest)}
    return {n: v for n, v in config.items() if n not in NOT_PART_OF_THE_RESULT and n not in moved}


class InputError(ValueError):
    """Something the user gave cannot work: the message names it, what is allowed, and the way out."""


def one_line(error: Exception) -> str:
    """An error's words on one line; what a terminal would act on instead of showing it is spelt out."""
    text = " ".join(str(error).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not in the list: did you mean, then the list."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    shown = [*known[:80], *(["..."] if len(known) > 80 else [])]
    return InputError(f"{kind} {name!r} is unknown.{hint} Known: {', '.join(shown)}.")


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """One trial of KV-cache distillation."""

    # --- models
    model_name: str = "gpt2"
    """The student: a hub name, a local Hugging Face folder, or a built-in (tiny-gpt2, tiny-llama)."""
    teacher_name: str | None = None
    """The frozen teacher, named like a student, or tiny-teacher, or 'self' (shared weights). Left out:
    a frozen copy of a pretrained --model_name; tiny-teacher where the student is a built-in."""
    student: StudentMode = "latent"
    """latent: reason in target_len latent tokens (KaVa). same_sequence: read the chain of thought itself."""

    # --- data
    dataset: DatasetName = "gsm8k"
    """arithmetic (built-in) or gsm8k (openai/gsm8k from the hub, or its format or Aug's in --train_file)."""
    train_file: str | None = None
    """A local file in GSM8K's format or one of GSM8K-Aug's (JSON, JSONL, iCoT's text), instead of the hub."""
    eval_file: str | None = None
    """Held-out rows in any of these. Left out: rows are split off the training file by hash."""
    train_sha256: str | None = None
    """SHA-256 that train_file must have. It then stands for the file, which may move; kvtune run sets it."""
    eval_sha256: str | None = None
    """The same for eval_file."""
    subset_size: int | None = None
    """Training rows used; all of them when left out (20,000 of the built-in task)."""
    eval_size: int = 256
    """Held-out rows evaluated."""
    eval_batch_size: int = 128
    """Of them, in one batch; fewer where an evaluation takes too much memory."""
    drop_last_step: bool = False
    """Leave out the last step of every chain of thought, as CODI and KaVa do."""

    # --- optimisation
    batch_size: int = 8
    """Rows in one micro-batch."""
    gradient_accumulation_steps: int = 1
    """Micro-batches in one optimizer step."""
    epochs: float = 3.0
    """Passes over the training rows."""
    max_steps: int | None = None
    """Optimizer steps; overrides --epochs."""
    lr: float = 5e-5
    """AdamW's peak learning rate of the student."""
    lr_schedule: Schedule = "constant"
    """The course of the learning rate after the warm-up."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """AdamW's decay of the student's matrices."""
    max_grad_norm: float = 1.0
    """Clip of the student's gradient norm."""
    aligner_lr: float | None = None
    """AdamW's peak learning rate of aligner and CODI projector; --lr when left out."""
    aligner_max_grad_norm: float = 1.0
    """Clip of the aligner's own gradient norm, apart from the student's."""
    dtype: Dtype = "float32"
    """Compute type of forward passes and of a frozen teacher's weights; the student's, losses, aligner and
    optimizer stay float32."""

    # --- distillation
    alignment_mode: AlignmentMode = "structured"
    """flat: one linear map of flattened heads. structured: heads and head_dim apart, never flattened."""
    map_proj_share_dim: bool | None = None
    """structured: one dimension map shared by all heads, instead of one per head."""
    map_proj_init_uniform: bool | None = None
    """structured: share the source's heads out equally at the start, instead of at random."""
    flat_init: FlatInit | None = None
    """flat: start as the structured map's Kronecker form (default), or at random."""
    flat_rank: int | None = None
    """flat: rank of a low-rank map, for a parameter-matched arm; full rank when left out."""
    kv_method: KVMethod = "rkv"
    """Which of the teacher's chain-of-thought entries are kept, per row, layer and key-value head."""
    target_len: int = 8
    """Entries kept, and latent tokens of the latent student."""
    rkv_lambda: float | None = None
    """rkv: weight of importance against redundancy (KaVa: 0.1, the default)."""
    latent_iterations: int | None = None
    """latent: Jacobi passes over all latent tokens at once; sequential when left out."""
    layer_map: LayerMap = "endpoints"
    """Which teacher layer each student layer is compared with."""
    kv_direction: KVDirection = "student_to_teacher"
    """Which cache is mapped. teacher_to_student_joint lets the target collapse: for study only."""
    k_space: KeySpace = "pre_rope"
    """Keys compared before or after rotary embedding."""
    kv_loss: KVLoss = "smooth_l1"
    """Distance of aligned keys and values."""
    kv_weight: float = 1.0
    """Weight of the KV loss; 0 switches it off."""
    codi_weight: float = 1.0
    """Weight of the hidden-state loss just before the answer; 0 switches it off."""
    shuffle_teacher: bool = False
    """Control: every row is given the teacher's cache of another row of its batch."""

    # --- the run
    seed: int = 0
    """The block of a paired comparison: data order and all initial weights follow from it."""
    logging_steps: int = 10
    """Optimizer steps between two log lines."""
    eval_steps: int | None = None
    """Optimizer steps between two evaluations; only at the end when left out."""
    save_steps: int = 200
    """Optimizer steps between two checkpoints."""
    save_total_limit: int = 2
    """Checkpoints kept."""
    output_dir: str = "outputs"
    """The trial's folder: config.json, metrics.jsonl, train.log, checkpoints, result.json."""
    teacher_cache: str | None = None
    """A folder with the frozen teacher's lessons, computed once and read instead of asking it in every step,
    to the same bits. kvtune train fills it; kvtune run hands its own to the trials."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1 or another device of torch."""
    threads: int | None = None
    """CPU threads of torch; what the machine or Ray gives when left out."""

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
                raise InputError(f"--{name} {value!r} holds bytes that are not UTF-8: rename it.")
        for name, kind in LITERALS.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(kind):
                raise unknown(f"--{name}", str(value), get_args(kind))
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"--{name} must be at least {least}, got {short(value)}.")
            if value is not None and not value <= MOST.get(name, LARGEST):
                raise InputError(f"--{name} must be at most {MOST.get(name, LARGEST):,}, got {short(value)}.")
        for name in ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and not 0 < value <= LARGEST:
                raise InputError(f"--{name} must be above 0 and at most {LARGEST:,}, got {short(value)}.")
        if self.rkv_lambda is not None and not 0 <= self.rkv_lambda <= 1:
            raise InputError(f"--rkv_lambda must lie between 0 and 1, got {self.rkv_lambda}.")
        self._refuse_flags_without_effect()

    def _refuse_flags_without_effect(self) -> None:
        for flag, needed, value in ONLY_WITH:
            if getattr(self, flag) is not None and getattr(self, needed) != value:
                raise InputError(
                    f"--{flag} has no effect with --{needed} {getattr(self, needed)}: "
                    f"leave it out, or choose --{needed} {value}."
                )
        if self.dataset == "arithmetic" and (self.train_file or self.eval_file):
            raise InputError(
                "--train_file and --eval_file have no effect with --dataset arithmetic, which makes its own "
                "rows: leave them out, or choose --dataset gsm8k."
            )
        per_head = self.kv_method not in ("full", "right_crop")
        if self.kv_direction != "student_to_teacher" and self.student == "same_sequence" and per_head:
            raise InputError(
                f"--kv_direction {self.kv_direction} mixes the teacher's heads, and --kv_method "
                f"{self.kv_method} keeps other positions in each of them: "
                "choose --kv_method full or right_crop, or --kv_direction student_to_teacher."
            )
        for file, digest in DIGESTS.items():
            if getattr(self, digest) is not None and getattr(self, file) is None:
                raise InputError(f"--{digest} has no effect without --{file}: give both, or neither.")
        if self.eval_file and not self.train_file:
            raise InputError("--eval_file has no effect without --train_file: give both, or neither.")
        if self.teacher_name == SELF and self.student == "same_sequence":
            raise InputError(
                "--teacher_name self with --student same_sequence compares a model with itself: "
                "choose --student latent, or another teacher."
            )
        if self.teacher_cache is not None and not self.cacheable:
            raise InputError(
                "--teacher_cache holds what a frozen teacher shows of each row by itself, which neither "
                "--teacher_name self nor --kv_method random follows from: leave it out."
            )
        if self.teacher_name == SELF and self.shuffle_teacher:
            raise InputError(
                "--shuffle_teacher is a control of a frozen teacher: leave it out with --teacher_name self."
            )

    @property
    def teacher(self) -> str:
        """The teacher's name with its default filled in."""
        if self.teacher_name is not None:
            return self.teacher_name
        return BUILTIN_TEACHER if self.model_name in BUILTIN_STUDENTS else self.model_name

    @property
    def uses_teacher(self) -> bool:
        """Whether training needs the teacher's forward pass."""
        return self.kv_weight > 0 or self.codi_weight > 0 or self.teacher == SELF

    @property
    def cacheable(self) -> bool:
        """Whether a row's lesson is the same in every step and seed: not if the teacher learns, or by lot."""
        return self.teacher != SELF and self.kv_method != "random"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DistillConfig:
        """A config from plain values; an unknown field is an InputError with the nearest known one."""
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise unknown("field", name, known)
        return cls(**values)

    def hash(self) -> str:
        """Twelve hex digits over every field that changes what the trial's numbers mean.

        Fields left out count for nothing, so that one which a later version adds renames no finished trial.
        """
        return hash_of(self.to_dict())


def hash_of(config: Mapping[str, Any]) -> str:
    """DistillConfig.hash of a config as its values, checked or not."""
    given = {name: value for name, value in meaning(config).items() if value is not None}
    canonical = json.dumps(given, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


LITERALS: dict[str, Any] = {
    "student": StudentMode,
    "dataset": DatasetName,
    "lr_schedule": Schedule,
    "dtype": Dtype,
    "alignment_mode": AlignmentMode,
    "flat_init": FlatInit,
    "kv_method": KVMethod,
    "layer_map": LayerMap,
    "kv_direction": KVDirection,
    "k_space": KeySpace,
    "kv_loss": KVLoss,
}
LEAST: dict[str, float] = {
    "subset_size": 1,
    "eval_size": 1,
    "eval_batch_size": 1,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": 1,
    "warmup_steps": 0,
    "weight_decay": 0,
    "flat_rank": 1,
    "target_len": 1,
    "latent_iterations": 0,
    "kv_weight": 0,
    "codi_weight": 0,
    "seed": 0,
    "logging_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "save_total_limit": 1,
    "threads": 1,
}
LARGEST = 1_000_000_000
"""Of every number without a bound of its own: what is larger is a slip, and would never end or not fit."""
MOST = {
    "seed": 2**31 - 1,
    "batch_size": 1_000_000,
    "gradient_accumulation_steps": 1_000_000,
    "target_len": 1_000_000,
    "latent_iterations": 1_000_000,
    "flat_rank": 1_000_000,
    "threads": 4096,
}
ABOVE_ZERO = ("epochs", "lr", "aligner_lr", "max_grad_norm", "aligner_max_grad_norm")
ONLY_WITH: tuple[tuple[str, str, str], ...] = (
    ("map_proj_share_dim", "alignment_mode", "structured"),
    ("map_proj_init_uniform", "alignment_mode", "structured"),
    ("flat_init", "alignment_mode", "flat"),
    ("flat_rank", "alignment_mode", "flat"),
    ("rkv_lambda", "kv_method", "rkv"),
    ("latent_iterations", "student", "latent"),
)
