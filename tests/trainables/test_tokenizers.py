from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trainables import tokenizers as ours
from trainables.arithmetic import VOCABULARY, arithmetic_examples
from trainables.config import DistillConfig, InputError
from trainables.data import load_examples
from trainables.examples import Example, make_example
from trainables.tokenizers import (
    encode,
    load_tokenizer,
    same_tokenizer,
    tokenizer_hash,
    train_bpe,
)

REAL = Path(__file__).parents[2] / "../shared/data/gsm8k/train.jsonl"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def problem(question: str = "Half of 48?", chain: str = "48/2=24 24+48=72", answer: str = "72") -> Example:
    return make_example(f"{question}\n", f"{chain}\n", "#### ", answer)


EXAMPLES = [problem(f"Ana paid ${i} for {2 * i} cakes — how many?") for i in range(40)]


def fast(tokenizer: Tokenizer, **special: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eos|>", **special)


def bpe_like(splitting: Any) -> Any:
    """A byte-level BPE trained on EXAMPLES, with another family's way of splitting."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitting
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([example.text for example in EXAMPLES], trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    return fast(tokenizer)


def gpt2_like() -> Any:
    return bpe_like(pre_tokenizers.ByteLevel(add_prefix_space=False))


def llama3_like() -> Any:
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return bpe_like(pre_tokenizers.Sequence([split, plain]))


def chunks(pattern: str) -> Any:
    """Every match of `pattern` is one (unknown) token."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<|eos|>": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return fast(tokenizer)


def built_in() -> Any:
    return fast(train_bpe([example.text for example in EXAMPLES]), pad_token="<|pad|>")


@pytest.mark.parametrize("make", [built_in, gpt2_like, llama3_like])
def test_the_spans_joined_are_the_tokenisation_of_the_whole_text(make: Any) -> None:
    tokenizer = make()

    for example, spans in zip(EXAMPLES, encode(EXAMPLES, tokenizer), strict=True):
        whole = tokenizer(example.text, add_special_tokens=False).input_ids
        assert list(spans.ids) == [*whole, tokenizer.eos_token_id]
        assert tokenizer.decode(spans.question) == example.question
        assert tokenizer.decode(spans.chain) == example.chain
        assert tokenizer.decode(spans.answer) == "#### 72<|eos|>"


@pytest.mark.parametrize("make", [built_in, gpt2_like, llama3_like])
def test_codis_position_is_the_last_token_before_the_value(make: Any) -> None:
    tokenizer = make()

    (spans,) = encode([problem(answer="-172")], tokenizer)

    before, after = spans.answer[: spans.codi_index + 1], spans.answer[spans.codi_index + 1 :]
    assert tokenizer.decode(before).strip() == "####"
    assert tokenizer.decode(after).strip() == "-172<|eos|>"


@pytest.mark.parametrize("make", [gpt2_like, llama3_like])
def test_arithmetic_words_are_cut_whether_the_space_is_a_token_or_part_of_one(make: Any) -> None:
    tokenizer = make()
    (example,) = arithmetic_examples(rows=1)

    (spans,) = encode([example], tokenizer)

    assert tokenizer.decode(spans.question) == example.question
    assert tokenizer.decode(spans.chain) == example.chain
    assert tokenizer.decode(spans.answer) == f"{example.mark}{example.answer}<|eos|>"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(TEXTS, st.integers(-(10**7), 10**7))
def test_any_question_is_cut_without_loss(question: str, answer: int) -> None:
    assume(question.strip() and "<|" not in question)
    example = problem(question.strip(), answer=str(answer))

    (spans,) = encode([example], BPE)

    assert BPE.decode(spans.question) == example.question
    assert BPE.decode(spans.chain) == example.chain
    assert BPE.decode(spans.answer) == f"#### {answer}<|eos|>"


BPE = built_in()


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"\S+\?\n48|\S+|\s", "question and chain"),
        (r"\S+=72\n#+|\S+|\s", "chain and mark"),
        (r"#+ 72|\S+|\s", "mark and value"),
        (r"##(?=## 72)|## 72|\S+|\s", "half the mark and value"),
        (r"[\s\S]+", "everything"),
    ],
)
def test_a_token_across_a_border_is_an_error_that_names_the_row(pattern: str, what: str) -> None:
    example = problem()

    with pytest.raises(InputError, match="cannot be cut") as error:
        encode([example], chunks(pattern))

    assert "Half of 48?" in str(error.value), what
    assert example.item_id in str(error.value)


def test_a_start_token_that_the_tokenizer_adds_itself_stands_first_and_once() -> None:
    tokenizer = train_bpe([example.text for example in EXAMPLES])
    tokenizer.add_special_tokens(["<|bos|>"])
    bos = tokenizer.token_to_id("<|bos|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", bos)]
    )
    with_start = fast(tokenizer, bos_token="<|bos|>")

    (spans,) = encode(EXAMPLES[:1], with_start)
    (plain,) = encode(EXAMPLES[:1], BPE)

    assert spans.question == (bos, *plain.question)
    assert spans.ids.count(bos) == 1


def test_padding_and_truncation_kept_in_a_tokenizers_file_do_not_touch_the_rows() -> None:
    tokenizer = train_bpe([example.text for example in EXAMPLES])
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=100)

    assert encode(EXAMPLES[:3], fast(tokenizer)) == encode(EXAMPLES[:3], BPE)


def test_arithmetic_has_one_token_a_word_in_the_order_of_the_vocabulary() -> None:
    examples = arithmetic_examples(rows=5)
    tokenizer = load_tokenizer("tiny-gpt2", "arithmetic", examples)

    for example, spans in zip(examples, encode(examples, tokenizer), strict=True):
        assert [VOCABULARY[i] for i in spans.ids] == [*example.text.split(), "EOS"]
        assert (len(spans.question), len(spans.chain), len(spans.answer)) == (11, 23, 3)
        assert spans.codi_index == 0
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("BOS", "EOS", "PAD")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("KVTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_digits_are_tokens_of_their_own_in_the_built_in_bpe(cache: Path) -> None:
    tokenizer = load_tokenizer("tiny-llama", "gsm8k", EXAMPLES)

    assert tokenizer.convert_ids_to_tokens(tokenizer("1234").input_ids) == list("1234")
    assert len(tokenizer) <= 1024
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_built_in_bpe_is_trained_once_for_the_same_rows(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_tokenizer("tiny-llama", "gsm8k", EXAMPLES)
    monkeypatch.setattr(ours, "train_bpe", lambda texts: pytest.fail("trained again"))

    again = load_tokenizer("tiny-teacher", "gsm8k", EXAMPLES)

    assert same_tokenizer(first, again)
    assert len(list((cache / "tokenizers").iterdir())) == 1


def test_other_rows_train_another_bpe(cache: Path) -> None:
    one = load_tokenizer("tiny-llama", "gsm8k", EXAMPLES)
    other = load_tokenizer("tiny-llama", "gsm8k", [problem("Wholly other words, friend")])

    assert not same_tokenizer(one, other)
    assert tokenizer_hash(one) != tokenizer_hash(other)


def test_the_built_in_bpe_is_the_same_when_trained_again() -> None:
    texts = [example.text for example in EXAMPLES]

    assert train_bpe(texts).to_str() == train_bpe(texts).to_str()


def test_trials_that_race_for_the_cache_all_read_a_whole_tokenizer(cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: load_tokenizer("tiny-llama", "gsm8k", EXAMPLES), range(4)))

    assert len({tokenizer_hash(tokenizer) for tokenizer in made}) == 1
    assert [path.suffix for path in (cache / "tokenizers").iterdir()] == [".json"]


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("KVTUNE_CACHE", str(in_the_way))

    with pytest.raises(InputError, match=rf"{in_the_way} cannot be written.*KVTUNE_CACHE"):
        load_tokenizer("tiny-llama", "gsm8k", EXAMPLES)


def test_another_user_may_read_the_cache(cache: Path) -> None:
    load_tokenizer("tiny-llama", "gsm8k", EXAMPLES)

    (path,) = (cache / "tokenizers").iterdir()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_local_folder_gives_its_tokenizer_with_the_end_token_as_padding(tmp_path: Path) -> None:
    saved = gpt2_like()
    saved.save_pretrained(tmp_path)

    loaded = load_tokenizer(str(tmp_path), "gsm8k", EXAMPLES)

    assert same_tokenizer(saved, loaded)
    assert loaded.pad_token_id == loaded.eos_token_id == saved.eos_token_id
    assert encode(EXAMPLES, loaded) == encode(EXAMPLES, saved)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    PreTrainedTokenizerFast(tokenizer_object=train_bpe(["a b"])).save_pretrained(tmp_path)

    with pytest.raises(InputError, match=r"--teacher_name .* without an end-of-sequence token"):
        load_tokenizer(str(tmp_path), "gsm8k", EXAMPLES, "--teacher_name")


def test_a_folder_without_tokenizer_files_is_named_with_its_flag(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))

    with pytest.raises(
        InputError, match=rf"--teacher_name {tmp_path} has no usable tokenizer in that folder"
    ):
        load_tokenizer(str(tmp_path), "gsm8k", EXAMPLES, "--teacher_name")


def test_a_damaged_tokenizer_file_is_an_input_error(tmp_path: Path) -> None:
    gpt2_like().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")

    with pytest.raises(InputError, match=r"--model_name .* has no usable tokenizer"):
        load_tokenizer(str(tmp_path), "gsm8k", EXAMPLES)


def test_a_path_that_is_no_folder_is_not_looked_up_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "hub_reachable", lambda: pytest.fail("asked the hub"))

    with pytest.raises(InputError, match=r"--model_name \./models/missing is no folder"):
        load_tokenizer("./models/missing", "gsm8k", EXAMPLES)


def test_an_unknown_name_without_a_hub_says_so_and_guesses_the_built_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ours, "hub_reachable", lambda: False)

    with pytest.raises(InputError, match=r"hub does not answer\. Did you mean 'tiny-llama'\?") as error:
        load_tokenizer("tiny-lama", "gsm8k", EXAMPLES)

    assert "--model_name tiny-lama" in str(error.value)


def test_where_the_hub_does_not_answer_only_the_local_cache_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def from_pretrained(name: str, **how: object) -> Any:
        asked.append((name, how["local_files_only"]))
        return gpt2_like()

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", from_pretrained)
    for reachable in (True, False):
        monkeypatch.setattr(ours, "hub_reachable", lambda reachable=reachable: reachable)
        load_tokenizer("gpt2", "gsm8k", EXAMPLES)

    assert asked == [("gpt2", False), ("gpt2", True)]


def test_tokenizers_differ_by_their_rules_even_with_one_vocabulary() -> None:
    by_word, by_letter = (
        Tokenizer(models.BPE(vocab={"<|eos|>": 0, "4": 1, "8": 2, "48": 3}, merges=merges))
        for merges in ([("4", "8")], [])
    )

    assert by_word.get_vocab() == by_letter.get_vocab()
    assert not same_tokenizer(fast(by_word), fast(by_letter))
    assert tokenizer_hash(fast(by_word)) != tokenizer_hash(fast(by_letter))


def test_a_tokenizer_is_the_same_as_itself_loaded_again() -> None:
    words = [load_tokenizer(name, "arithmetic", []) for name in ("tiny-llama", "tiny-teacher")]

    assert same_tokenizer(*words)
    assert tokenizer_hash(words[0]) == tokenizer_hash(words[1])
    assert not same_tokenizer(words[0], BPE)


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not here")
def test_every_row_of_gsm8k_can_be_cut(cache: Path) -> None:
    splits = load_examples(DistillConfig(model_name="tiny-llama", train_file=str(REAL), eval_size=10_000))
    tokenizer = load_tokenizer("tiny-llama", "gsm8k", splits.train)
    rows = [*splits.train, *splits.held_out]

    encoded = encode(rows, tokenizer)

    assert len(encoded) == 7378
    assert all(spans.chain and spans.codi_index == 1 for spans in encoded)
    assert max(len(spans.ids) for spans in encoded) <= 512
