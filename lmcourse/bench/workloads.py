"""What a benchmark runs: requests as token ids with fixed output lengths, the same for every engine. No torch.

Ids instead of text, so that no tokenizer or template differs; fixed lengths, so that every engine does the same work
whatever it would like to say.

Lesson: 2 (a fair comparison)
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from lmcourse.errors import ConfigError

__all__ = ["GenerationRequest", "mixed_requests"]


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt, and how many tokens to generate for it: exactly so many, ends of sequence are ignored."""

    prompt_ids: tuple[int, ...]
    num_output_tokens: int


def mixed_requests(
    count: int,
    *,
    vocab: int,
    seed: int = 0,
    prompt_lens: tuple[int, int] = (16, 256),
    output_lens: tuple[int, int] = (32, 192),
    excluded_ids: Collection[int] = (),
) -> list[GenerationRequest]:
    """`count` requests with lengths drawn evenly from both ranges (ends included) and ids from the vocabulary."""
    for name, (low, high) in (("prompt_lens", prompt_lens), ("output_lens", output_lens)):
        if not 1 <= low <= high:
            raise ConfigError(
                f"{name} is not a range", expected="1 <= shortest <= longest", got=(low, high), where=name
            )
    draw = random.Random(seed)
    usable = [i for i in range(vocab) if i not in set(excluded_ids)]
    requests = []
    for _ in range(count):
        prompt = tuple(draw.choices(usable, k=draw.randint(*prompt_lens)))
        requests.append(GenerationRequest(prompt, draw.randint(*output_lens)))
    return requests
