"""Exercise 1.2: greedy generation by hand: a loop around a function that gives the next token's logits.

The "model" of a case is a hash of all token ids so far, so an answer that drops the prompt, feeds only the last token
or adds a token of its own gets other logits from the first step on.

Lesson: 1 (first words)
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lmcourse.homework.exercise import Case, Exercise, Mistake

if TYPE_CHECKING:
    import torch

__all__ = ["GREEDY"]

_VOCAB = 50
NextLogits = Callable[[Sequence[int]], "torch.Tensor"]


class _HashModel:
    """Token ids → logits [vocab]; refuses to be called much more often than the task can need."""

    def __init__(self, salt: int, calls_allowed: int) -> None:
        self._salt, self._calls_left, self._allowed = salt, calls_allowed, calls_allowed

    def __call__(self, token_ids: Sequence[int]) -> torch.Tensor:
        import torch

        if self._calls_left == 0:
            raise RuntimeError(f"next_logits was called {self._allowed} times: the loop does not end")
        self._calls_left -= 1
        ids = [int(token) for token in token_ids]
        seed = zlib.crc32(repr((self._salt, ids)).encode())
        return torch.randn(_VOCAB, generator=torch.Generator().manual_seed(seed))


def _greedy(next_logits: NextLogits, prompt_ids: list[int], stop_ids: set[int], max_new_tokens: int) -> list[int]:
    new: list[int] = []
    for _ in range(max_new_tokens):
        token = int(next_logits(prompt_ids + new).argmax())
        if token in stop_ids:
            return new
        new.append(token)
    return new


def _make_case(rng: random.Random, *, stop_after: int | None, max_new_tokens: int) -> Case:
    """A case in which the model says a stop token after `stop_after` others, or never within the limit."""
    salt = rng.randrange(2**32)
    prompt = [rng.randrange(_VOCAB) for _ in range(rng.randint(1, 9))]
    free = _greedy(_HashModel(salt, 200), prompt, set(), 100)
    stops = {rng.randrange(_VOCAB, 2 * _VOCAB)}  # ids that the model cannot say
    if stop_after is not None:
        stops.add(free[stop_after])
        prompt.append(free[stop_after])  # a stop token in the prompt must not stop anything
        free = _greedy(_HashModel(salt, 200), prompt, set(), 100)
        stops.add(free[stop_after])

    def arguments() -> tuple[Any, ...]:
        return _HashModel(salt, 2 * max_new_tokens + 8), list(prompt), set(stops), max_new_tokens

    shown = f"prompt_ids={prompt}, stop_ids={sorted(stops)}, max_new_tokens={max_new_tokens}"
    return Case(shown, arguments, _greedy(*arguments()))


def _make_cases(rng: random.Random) -> Iterator[Case]:
    first = _make_case(rng, stop_after=None, max_new_tokens=rng.randint(4, 9))
    while _last_only(*first.make_arguments()) == _never_appends(*first.make_arguments()):
        first = _make_case(rng, stop_after=None, max_new_tokens=rng.randint(4, 9))  # one that tells the two apart
    yield first
    yield _make_case(rng, stop_after=rng.randint(3, 6), max_new_tokens=40)
    yield _make_case(rng, stop_after=0, max_new_tokens=12)
    yield _make_case(rng, stop_after=None, max_new_tokens=1)
    yield _make_case(rng, stop_after=None, max_new_tokens=0)
    yield _make_case(rng, stop_after=rng.randint(8, 20), max_new_tokens=rng.randint(3, 7))


def _keeps_stop(next_logits: NextLogits, prompt_ids: list[int], stop_ids: set[int], max_new_tokens: int) -> list[int]:
    new: list[int] = []
    while len(new) < max_new_tokens and not (new and new[-1] in stop_ids):
        new.append(int(next_logits(prompt_ids + new).argmax()))
    return new


def _with_prompt(next_logits: NextLogits, prompt_ids: list[int], stop_ids: set[int], max_new_tokens: int) -> list[int]:
    return prompt_ids + _greedy(next_logits, prompt_ids, stop_ids, max_new_tokens)


def _last_only(next_logits: NextLogits, prompt_ids: list[int], stop_ids: set[int], max_new_tokens: int) -> list[int]:
    return _greedy(lambda ids: next_logits(ids[-1:]), prompt_ids, stop_ids, max_new_tokens)


def _never_appends(
    next_logits: NextLogits, prompt_ids: list[int], stop_ids: set[int], max_new_tokens: int
) -> list[int]:
    return _greedy(lambda ids: next_logits(prompt_ids), prompt_ids, stop_ids, max_new_tokens)


def _no_stop(next_logits: NextLogits, prompt_ids: list[int], stop_ids: set[int], max_new_tokens: int) -> list[int]:
    return _greedy(next_logits, prompt_ids, set(), max_new_tokens)


def _one_too_many(next_logits: NextLogits, prompt_ids: list[int], stop_ids: set[int], max_new_tokens: int) -> list[int]:
    return _greedy(next_logits, prompt_ids, stop_ids, max_new_tokens + 1)


GREEDY = Exercise(
    id="1.2",
    title="Be the engine",
    signature="generate(next_logits, prompt_ids, stop_ids, max_new_tokens) → list of new token ids",
    difficulty=2,
    minutes=15,
    hints=(
        "A language model answers one question: given these tokens, how likely is each token as the next one? "
        "Generation asks it again and again, each time with one token more. What has to be in the list that you ask "
        "with?",
        "At each step call next_logits with the prompt and everything generated so far, take the position of the "
        "largest logit (`.argmax()`), and leave if it is a stop token. Count steps so that no more than "
        "max_new_tokens come out.",
        "`for _ in range(max_new_tokens):` gives the limit, zero included. Inside: token = "
        "int(next_logits(prompt_ids + new).argmax()); test it against stop_ids before you append it, since the stop "
        "token is no part of the answer.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_no_stop, "generation went on after a token from stop_ids came"),
        Mistake(_keeps_stop, "the stop token is part of the answer; it should end it without being in it"),
        Mistake(_with_prompt, "the prompt is part of the answer; only the new tokens were asked for"),
        Mistake(_last_only, "the model was asked with the last token alone; it needs the prompt and all new tokens"),
        Mistake(_never_appends, "the model was asked with the same tokens each time; append what was chosen, then ask"),
        Mistake(_one_too_many, "there is one token more than max_new_tokens allows"),
    ),
)
