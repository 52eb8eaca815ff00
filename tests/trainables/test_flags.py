from __future__ import annotations

import subprocess
import sys

import pytest

from trainables.config import DistillConfig, InputError
from trainables.flags import parse


def test_the_cards_flags_parse_as_they_are() -> None:
    line = (
        "--model_name gpt2 --teacher_name gpt2 --subset_size 100 --batch_size 4 --epochs 1 "
        "--alignment_mode structured --map_proj_share_dim --map_proj_init_uniform --kv_method rkv "
        "--lr 5e-5 --output_dir out --logging_steps 10 --save_steps 50"
    )

    config = parse(line.split(), "train")

    assert config == DistillConfig(
        model_name="gpt2",
        teacher_name="gpt2",
        subset_size=100,
        batch_size=4,
        epochs=1,
        alignment_mode="structured",
        map_proj_share_dim=True,
        map_proj_init_uniform=True,
        kv_method="rkv",
        lr=5e-5,
        output_dir="out",
        logging_steps=10,
        save_steps=50,
    )


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("--map_proj_share_dim", True),
        ("--map-proj-share-dim", True),
        ("--map_proj_share_dim true", True),
        ("--map_proj_share_dim=False", False),
        ("--map_proj_share_dim 0", False),
        ("--no_map_proj_share_dim", False),
        ("--no-map-proj-share-dim", False),
        ("", None),
    ],
)
def test_a_switch_may_stand_alone_or_take_a_word(words: str, value: bool | None) -> None:
    assert parse([*words.split(), "--seed", "3"], "train") == DistillConfig(map_proj_share_dim=value, seed=3)


def test_an_unknown_flag_is_named_with_the_nearest_one() -> None:
    with pytest.raises(
        InputError, match=r"flag '--alignment_mod' is unknown\. Did you mean '--alignment_mode'\?"
    ):
        parse(["--alignment_mod", "flat"], "train")


def test_an_unknown_method_is_named_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"--kv_method 'rvk' is unknown\. Did you mean 'rkv'\?"):
        parse(["--kv_method", "rvk"], "train")


def test_a_flag_without_effect_is_an_error() -> None:
    with pytest.raises(InputError, match="--map_proj_share_dim has no effect with --alignment_mode flat"):
        parse(["--alignment_mode", "flat", "--map_proj_share_dim"], "train")


@pytest.mark.parametrize("words", [["--lr", "fast"], ["--alignment_mode", "falt"], ["--batch_size", "1.5"]])
def test_a_value_that_does_not_fit_ends_with_code_2_and_no_traceback(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainables", *words], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    assert words[0] in done.stderr + done.stdout


def test_asking_for_help_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from trainables.flags import parse\n"
        "try: parse(['--help'], 'x')\n"
        "except SystemExit: assert not {'torch', 'transformers'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
