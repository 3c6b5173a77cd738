"""Parity: does the engine say, token by token, what transformers would say?

Teacher forcing checks a whole answer in one pass. transformers reads the prompt and the answer at once; its logits at
each place tell what it would have said there, and if that is the engine's token at every place, then its own greedy
answer, token after token, is the same.

    transformers reads    p1 p2 p3 | t1 t2 t3            and at p3, t1, t2 … its best next token
    and would say               t1 | t2 t3 t4            must be the engine's t1, t2, t3, t4

Where two tokens are all but equally likely, rounding decides: `smallest_lead` says how close any decision was.

Lesson: 2 (the two agree)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmcourse.config import GenerationConfig

if TYPE_CHECKING:
    from lmcourse.engine import Engine

__all__ = ["TOLERANCES", "EngineAnswer", "Parity", "answer_prompts", "compare_with_transformers"]

# How far log-probabilities of an answer's likeliest tokens may be from transformers', in nats, by the engine's dtype.
# Rounding explains them: tiny-chat's logits reach 40, of which float16 keeps 11 bits and bfloat16 8, and every layer
# rounds anew. transformers itself is as far from its own float64 in these dtypes (tests/lesson/test_parity_gpu.py).
TOLERANCES = {"float32": 1e-4, "float16": 0.2, "bfloat16": 0.8}


@dataclass(frozen=True)
class EngineAnswer:
    """What the engine said, with the log-probabilities of its likeliest tokens at each place."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[dict[int, float], ...]


@dataclass(frozen=True)
class Parity:
    """The outcome of a comparison; differences are in nats."""

    num_answers: int
    num_tokens: int
    num_equal: int  # tokens that transformers would have chosen too
    largest_difference: float  # between the log-probabilities that both sides give the engine's likeliest tokens
    smallest_lead: float  # of transformers' best token over its second best, at its closest decision
    largest_loss: float  # by how much an engine token is less likely than transformers' best; 0 if all are equal

    @property
    def all_equal(self) -> bool:
        return self.num_equal == self.num_tokens

    def __str__(self) -> str:
        return (
            f"{self.num_equal} of {self.num_tokens} tokens equal in {self.num_answers} answers; log-probabilities "
            f"differ by at most {self.largest_difference:.1e}, the closest decision was {self.smallest_lead:.1e} apart"
        )


def answer_prompts(engine: Engine, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[EngineAnswer]:
    """Greedy answers of exactly `num_tokens` to all prompts, which the engine works on together."""
    gen = GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True, logprobs=5)
    ids: dict[int, list[int]] = {}
    logprobs: dict[int, list[dict[int, float]]] = {}
    for prompt in prompts:
        request_id = engine.add(prompt, gen)
        ids[request_id], logprobs[request_id] = [], []
    while engine.has_work:
        for output in engine.step():
            ids[output.request_id] += output.token_ids
            logprobs[output.request_id] += output.logprobs or []
    return [
        EngineAnswer(tuple(prompt), tuple(ids[key]), tuple(logprobs[key]))
        for prompt, key in zip(prompts, ids, strict=True)
    ]


@torch.inference_mode()
def compare_with_transformers(model: Any, answers: Sequence[EngineAnswer]) -> Parity:
    """`model` is a transformers causal language model with the engine's weights."""
    parts = [_compare_one(model, answer) for answer in answers]
    return Parity(
        num_answers=len(answers),
        num_tokens=sum(part.num_tokens for part in parts),
        num_equal=sum(part.num_equal for part in parts),
        largest_difference=max(part.largest_difference for part in parts),
        smallest_lead=min(part.smallest_lead for part in parts),
        largest_loss=max(part.largest_loss for part in parts),
    )


def _compare_one(model: Any, answer: EngineAnswer) -> Parity:
    said = torch.tensor(answer.token_ids, device=model.device)
    expected = _forced_logprobs(model, answer)
    best = expected.topk(2, dim=-1).values
    of_said = expected.gather(1, said[:, None])[:, 0]
    differences = [
        max(abs(float(row[token]) - value) for token, value in given.items())
        for row, given in zip(expected.cpu(), answer.logprobs, strict=True)
    ]
    return Parity(
        num_answers=1,
        num_tokens=len(answer.token_ids),
        num_equal=int((expected.argmax(dim=-1) == said).sum()),
        largest_difference=max(differences),
        smallest_lead=float((best[:, 0] - best[:, 1]).min()),
        largest_loss=float((best[:, 0] - of_said).max()),
    )


def _forced_logprobs(model: Any, answer: EngineAnswer) -> Tensor:
    """transformers' log-probabilities [len(token_ids), vocab] at the places where the engine chose a token."""
    ids = torch.tensor([[*answer.prompt_ids, *answer.token_ids[:-1]]], device=model.device)
    logits: Tensor = model(ids, logits_to_keep=len(answer.token_ids)).logits[0]
    return logits.double().log_softmax(dim=-1)
