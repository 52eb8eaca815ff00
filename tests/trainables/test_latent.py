from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.trainables.test_capture import reader_of
from trainables.capture import Reader, write_on
from trainables.latent import LatentProjection, Thought, answer_logits, think

FAMILIES = ("gpt2", "llama")
M = 4


def projection_of(reader: Reader) -> LatentProjection:
    torch.manual_seed(1)
    return LatentProjection(reader.width, 0.05).eval()


def questions() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    ids = torch.randint(0, 30, (2, 5))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return ids, mask


def thought_of(reader: Reader, ids: Tensor, mask: Tensor, iterations: int | None = None) -> Thought:
    return think(reader, projection_of(reader), ids, mask, M, iterations)


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_are_what_a_plain_loop_over_one_unpadded_row_gives(family: str) -> None:
    reader, projection = reader_of(family), projection_of(reader_of(family))
    ids, mask = questions()
    thought = thought_of(reader, ids, mask)

    embed = reader.lm.get_input_embeddings()
    inputs = embed(ids[1:2, :3])
    for _ in range(M):
        hidden = reader.lm(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1]
        inputs = torch.cat([inputs, projection(hidden[:, -1:])], dim=1)
    out = reader.lm(inputs_embeds=inputs)

    torch.testing.assert_close(thought.prefix.next_logits[1:2], out.logits[:, -1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_enough_jacobi_passes_give_the_sequential_latents(family: str) -> None:
    reader = reader_of(family)
    ids, mask = questions()

    one_by_one = thought_of(reader, ids, mask)
    enough = thought_of(reader, ids, mask, iterations=M - 1)
    too_few = thought_of(reader, ids, mask, iterations=M - 2)

    torch.testing.assert_close(enough.keys, one_by_one.keys, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(enough.prefix.next_logits, one_by_one.prefix.next_logits, atol=1e-5, rtol=1e-4)
    assert (too_few.keys - one_by_one.keys).abs().max() > 1e-4


@pytest.mark.parametrize("iterations", [None, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_padded_further_thinks_the_same(family: str, iterations: int | None) -> None:
    reader = reader_of(family)
    ids, mask = questions()
    wide_ids = torch.cat([ids, torch.full((2, 3), 9)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)

    plain = thought_of(reader, ids, mask, iterations)
    wide = thought_of(reader, wide_ids, wide_mask, iterations)

    torch.testing.assert_close(wide.keys, plain.keys, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(wide.values, plain.values, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("iterations", [None, 2])
def test_the_answer_sends_gradients_through_the_latents_into_the_question(iterations: int | None) -> None:
    reader = reader_of("llama")
    projection = projection_of(reader)
    ids, mask = questions()
    asked = reader.lm.get_input_embeddings()(ids).detach().requires_grad_()

    thought = think(reader, projection, asked, mask, M, iterations)
    thought.prefix.next_logits.logsumexp(-1).sum().backward()

    assert asked.grad is not None
    assert asked.grad[1, :3].abs().sum() > 0
    assert asked.grad[1, 3:].abs().sum() == 0, "padding got a gradient"
    assert all(p.grad is not None for p in (projection.first.weight, projection.second.weight))


def test_teacher_forced_logits_equal_those_of_decoding_token_by_token() -> None:
    reader = reader_of("llama")
    ids, mask = questions()
    written = write_on(reader, thought_of(reader, ids, mask).prefix, eos_id=-1, limit=3)
    answers = torch.tensor(written)

    logits, _ = answer_logits(
        reader, thought_of(reader, ids, mask), answers, torch.ones_like(answers, dtype=torch.bool)
    )

    assert logits.argmax(-1).tolist() == written


def test_a_latent_token_enters_at_the_size_of_a_word() -> None:
    projection = LatentProjection(64, 0.02)

    entered = projection(torch.randn(10, 64) * 30)

    assert entered.detach().square().mean().sqrt() == pytest.approx(0.02, rel=0.01)
