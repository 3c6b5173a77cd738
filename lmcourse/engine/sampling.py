"""SamplingRule: how one request turns logits into a token, and where its randomness comes from. No torch.

The idea: randomness is a function and not a stream. The number that decides output token i of a request is a hash of
its seed and i alone, so the same seed gives the same tokens whatever else is in the batch, in whichever order, and
after a preemption.

Contract: temperature 0 means greedy, and every other field has its neutral value where the user set none.

Lesson: 2 (passing generation parameters)
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lmcourse.config import GenerationConfig

__all__ = ["SamplingRule", "TokenMask", "draw_uniforms", "make_sampling_rule"]


class TokenMask(Protocol):
    """Which tokens may come next, decided on the host from those that have come: a grammar, say.

    A request with a mask needs the host between two of its tokens, so it cannot be computed ahead of its sampling.
    """

    def allowed(self, output_ids: Sequence[int]) -> NDArray[np.bool_]:
        """[vocab], True for what may follow these outputs. A function of them alone: after a preemption it is asked
        again for the same ones. What it raises ends its request and no other.
        """


@dataclass(frozen=True)
class SamplingRule:
    """A GenerationConfig's sampling side, resolved to numbers and token ids."""

    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    biased_ids: tuple[int, ...] = ()  # tokens whose logits are shifted, by `biases`
    biases: tuple[float, ...] = ()
    seed: int = 0
    banned_ids: tuple[int, ...] = ()  # never chosen
    early_ids: tuple[int, ...] = ()  # not chosen before min_new_tokens: whatever would stop the request
    min_new_tokens: int = 0
    num_logprobs: int | None = None  # None: not asked for
    mask: TokenMask | None = None

    @cached_property
    def is_plain(self) -> bool:
        """Whether a token is all that is wanted, from logits as they are."""
        return self.num_logprobs is None and not (
            self.needs_host or self.banned_ids or self.early_ids or self.biased_ids
        )

    @cached_property
    def counts_outputs(self) -> bool:
        """Whether it matters how often the answer has each token."""
        return bool(self.presence_penalty or self.frequency_penalty)

    @property
    def needs_host(self) -> bool:
        """Whether the host must know a token before it can help to sample the next."""
        return self.repetition_penalty != 1 or self.counts_outputs or self.mask is not None


def make_sampling_rule(
    gen: GenerationConfig, *, banned_ids: Sequence[int], stop_ids: frozenset[int], mask: TokenMask | None = None
) -> SamplingRule:
    """Fill in neutral values; without a seed a random one is taken, so that preemption does not change the answer."""
    samples = gen.samples
    return SamplingRule(
        temperature=(1.0 if gen.temperature is None else float(gen.temperature)) if samples else 0.0,
        top_k=gen.top_k or 0,
        top_p=1.0 if gen.top_p is None else float(gen.top_p),
        min_p=gen.min_p or 0.0,
        repetition_penalty=float(gen.repetition_penalty),
        presence_penalty=float(gen.presence_penalty),
        frequency_penalty=float(gen.frequency_penalty),
        biased_ids=tuple(gen.logit_bias or ()),
        biases=tuple(map(float, (gen.logit_bias or {}).values())),
        seed=secrets.randbits(64) if gen.random_seed is None else gen.random_seed,
        banned_ids=tuple(banned_ids),
        early_ids=tuple(sorted(stop_ids)) if gen.min_new_tokens else (),
        min_new_tokens=gen.min_new_tokens or 0,
        num_logprobs=gen.logprobs,
        mask=mask,
    )


def draw_uniforms(seeds: Sequence[int], counters: Sequence[int]) -> NDArray[np.float64]:
    """One number in [0, 1) per (seed, counter): two rounds of splitmix64 (Steele, Lea, Flood 2014, figure 16)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = _mix(np.array(seeds, dtype=np.uint64) + golden) + golden * np.array(counters, dtype=np.uint64)
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
