"""Tokenizers, and the encoding of an example as three spans of one tokenisation. Imports no torch itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import tokenizers
from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers

from trainables.arithmetic import BOS, EOS, PAD, VOCABULARY
from trainables.config import BUILTIN_STUDENTS, BUILTIN_TEACHER, InputError
from trainables.examples import Example, set_hash
from trainables.hub import hub_reachable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILTINS = (*BUILTIN_STUDENTS, BUILTIN_TEACHER)
BPE_VOCABULARY = 1024
BPE_EOS, BPE_PAD = "<|eos|>", "<|pad|>"
PROBE = "BOS 3 + 4 |\nNaïve Ana paid $1,080.50 for 12 — or 13? — cakes.\n48/2=24 24+1=25\n#### 25"
"""A text in which tokenizers with one vocabulary but other rules come apart."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example's token ids as three spans; joined, they are the tokenisation of its whole text."""

    question: tuple[int, ...]
    """With the tokenizer's own beginning-of-sequence token where it adds one."""
    chain: tuple[int, ...]
    answer: tuple[int, ...]
    """Answer mark, value and end-of-sequence token."""
    codi_index: int
    """Index in `answer` of the last token before the value."""

    @property
    def ids(self) -> tuple[int, ...]:
        return self.question + self.chain + self.answer


def encoded_hash(rows: Sequence[Encoded]) -> str:
    """Sixteen hex digits over rows as a model reads them: tokenizer, data set, split and drop_last_step."""
    spans = [(row.question, row.chain, row.answer, row.codi_index) for row in rows]
    return hashlib.sha256(json.dumps(spans).encode()).hexdigest()[:16]


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Every example's spans, cut by character offsets out of one tokenisation of its whole text.

    Raises InputError naming the row where a token reaches over the border of two spans.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encodings = backend.encode_batch([example.text for example in examples], add_special_tokens=False)
    start = _own_start(tokenizer)
    return [
        _cut(encoding, example, start, tokenizer.eos_token_id)
        for encoding, example in zip(encodings, examples, strict=True)
    ]


def _own_start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The beginning-of-sequence token if the tokenizer puts one before a text by itself."""
    ids = tokenizer("1").input_ids
    return (ids[0],) if ids and ids[0] == tokenizer.bos_token_id else ()


def _cut(encoding: Encoding, example: Example, start: tuple[int, ...], eos: int) -> Encoded:
    to_chain = len(example.question)
    to_answer = to_chain + len(example.chain)
    to_value = to_answer + len(example.mark)
    chain = _first_token(encoding, to_chain, example.chain)
    answer = _first_token(encoding, to_answer, example.mark)
    # The space before the value may belong to the value's token (GPT-2) or be one of its own (Llama 3).
    value = encoding.char_to_token(to_value)
    if chain is None or answer is None or value is None or not 0 < chain < answer < value:
        raise _straddling(example)
    if _begins(encoding, value) < to_value - 1:
        raise _straddling(example)
    ids = encoding.ids
    return Encoded((*start, *ids[:chain]), tuple(ids[chain:answer]), (*ids[answer:], eos), value - answer - 1)


def _first_token(encoding: Encoding, border: int, part: str) -> int | None:
    """The first token of the `part` that begins at character `border`; None where a token reaches across.

    Asks for single characters: making lists of all offsets takes as long as tokenising.
    """
    token = encoding.char_to_token(border + len(part) - len(part.lstrip()))
    if token is None or _begins(encoding, token) < border:
        return None
    while token and _begins(encoding, token - 1) >= border:  # a space that is a token of its own
        token -= 1
    return token


def _begins(encoding: Encoding, token: int) -> int:
    """The character at which a token begins."""
    span = encoding.token_to_chars(token)
    assert span is not None, "only added special tokens have no place in the text, and none are added"
    return span[0]


def _straddling(example: Example) -> InputError:
    return InputError(
        f"the row {example.question[:60]!r} (item {example.item_id}) cannot be cut into question, chain of "
        f"thought and answer: the tokenizer merges characters across {example.question[-5:]!r} + "
        f"{example.chain[:5]!r}, {example.chain[-5:]!r} + {example.mark!r} or {example.mark!r} + "
        f"{example.answer!r}, or drops one of them. "
        f"Take the row out, or choose a model whose tokenizer splits there."
    )


def load_tokenizer(
    name: str, dataset: str, train_examples: Sequence[Example], flag: str = "--model_name"
) -> PreTrainedTokenizerBase:
    """The tokenizer of a built-in model, a local folder or a hub name, with end and padding tokens set.

    Built-in models have none of their own: one word a token for arithmetic, else a byte-level BPE of 1,024
    tokens trained on `train_examples` and kept in cache_dir(). Errors name `flag`.
    """
    if name not in BUILTINS:
        return _pretrained(name, flag)
    if dataset == "arithmetic":
        return _word_level()
    return _byte_level(train_examples)


def same_tokenizer(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether both give every text the same ids, judged by vocabulary, special tokens and a probe text."""
    return _identity(a) == _identity(b)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Twelve hex digits; equal where same_tokenizer holds."""
    return hashlib.sha256(_identity(tokenizer).encode()).hexdigest()[:12]


def _identity(tokenizer: PreTrainedTokenizerBase) -> str:
    probe = tokenizer(_readable(PROBE, tokenizer)).input_ids
    return json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.eos_token_id, probe])


def _readable(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The words of `text` that a word-level tokenizer knows; the whole text for any other."""
    if not isinstance(tokenizer.backend_tokenizer.model, models.WordLevel):
        return text
    known = tokenizer.get_vocab()
    return " ".join(word for word in text.split() if word in known)


def cache_dir() -> Path:
    """Where built-in models and tokenizers are kept: $KVTUNE_CACHE, or ~/.cache/kvtune."""
    return Path(os.environ.get("KVTUNE_CACHE") or "~/.cache/kvtune").expanduser()


def _word_level() -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def _byte_level(examples: Sequence[Example]) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    recipe = f"bpe-{set_hash(examples)}-{BPE_VOCABULARY}-{tokenizers.__version__}"
    path = cache_dir() / "tokenizers" / f"{recipe}.json"
    if not path.exists():
        _write_atomically(path, train_bpe([example.text for example in examples]).to_str())
    return PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=BPE_EOS, pad_token=BPE_PAD)


def train_bpe(texts: Sequence[str]) -> Tokenizer:
    """A byte-level BPE with GPT-2's splitting and every digit a token, the same for the same texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_VOCABULARY,
        special_tokens=[BPE_PAD, BPE_EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


def _write_atomically(path: Path, text: str) -> None:
    """Whole or not at all: several trials may write the same file at once."""
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache folder {cache_dir()} cannot be written ({error.strerror}): "
            f"free it, or set KVTUNE_CACHE to a folder that can."
        ) from error


def _pretrained(name: str, flag: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and (folder.exists() or name.startswith(("/", ".", "~"))):
        raise InputError(
            f"{flag} {name} is no folder: give a local Hugging Face folder, a hub name or {_known()}."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder) if local else name, use_fast=True, local_files_only=local or not hub_reachable()
        )
    except Exception as error:  # the tokenizers library raises bare Exceptions for files it cannot read
        raise _not_to_be_had(name, flag, local, error) from error
    return _completed(tokenizer, f"{flag} {name}")


def _completed(tokenizer: PreTrainedTokenizerBase, given: str) -> PreTrainedTokenizerBase:
    """The tokenizer, checked, with its end token as padding where it has no padding token."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{given} has a slow tokenizer, without character offsets: choose a model with a fast one."
        )
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{given} has a tokenizer without an end-of-sequence token: set eos_token in its files."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _not_to_be_had(name: str, flag: str, local: bool, error: Exception) -> InputError:
    if local:
        reason = f"in that folder ({(str(error) or type(error).__name__).splitlines()[0].rstrip('.')})"
    elif hub_reachable():
        reason = f"on the hub ({(str(error) or type(error).__name__).splitlines()[0].rstrip('.')})"
    else:
        reason = "in the local cache, and the model hub does not answer"
    close = get_close_matches(name, BUILTINS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return InputError(
        f"{flag} {name} has no usable tokenizer {reason}.{hint} "
        f"Give a local Hugging Face folder with tokenizer files, a hub name, or {_known()}."
    )


def _known() -> str:
    return f"a built-in ({', '.join(BUILTINS)})"
