"""A contest: programs take turns on equal work; when their tokens came tells TTFT, TPOT and speed, beside the limit.

    Contestant     requests in, each request's token times out; the last token is on the host before the clock stops
    hold_contest   warm-up, then A B C A B C …; the median of the repeats, and how far they lie apart

Equal work means: the same prompts as token ids, of one length, and the same number of new tokens, ends of sequence
ignored. The decode speed counts tokens after the first: prefill is in the TTFT and nowhere else.

Lesson: 7 (a fair comparison)
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmcourse.accounting import Device, Storage, decode_seconds
from lmcourse.bench.hf_decode import HF_KINDS, TokenClock
from lmcourse.bench.latency import ServedRequest
from lmcourse.bench.measure import work_off
from lmcourse.bench.speed import engine_storage
from lmcourse.bench.workloads import GenerationRequest, mixed_requests
from lmcourse.errors import ConfigError

if TYPE_CHECKING:
    from lmcourse.engine import Engine
    from lmcourse.spec import ModelSpec

__all__ = [
    "Contestant",
    "Standing",
    "engine_contestant",
    "equal_requests",
    "format_standings",
    "hold_contest",
    "transformers_contestant",
]

Requests = Sequence[GenerationRequest]


@dataclass(frozen=True)
class Contestant:
    """A program that can be timed, and what its memory holds: that gives the limit."""

    name: str
    run: Callable[[Requests], list[ServedRequest]]
    spec: ModelSpec
    storage: Storage

    def limit(self, device: Device, requests: Requests) -> float:
        """Tokens per second that the device's bytes and FLOPs allow, the answer being half there."""
        one = requests[0]
        context = len(one.prompt_ids) + one.num_output_tokens // 2
        seconds = decode_seconds(self.spec, device, batch=len(requests), context=context, storage=self.storage)
        return len(requests) / seconds


@dataclass(frozen=True)
class Standing:
    """One program on one workload: its figures in each repeat, and what the device would allow."""

    name: str
    batch: int
    num_tokens: int  # generated in one repeat
    ttfts: tuple[float, ...]  # seconds, the mean over a repeat's requests
    decode_rates: tuple[float, ...]  # tokens after the first per second, all requests together
    limit: float | None  # of the decode rate

    @property
    def ttft(self) -> float:
        """Seconds to the first token, the median repeat."""
        return statistics.median(self.ttfts)

    @property
    def tokens_per_second(self) -> float:
        """The median repeat."""
        return statistics.median(self.decode_rates)

    @property
    def tpot(self) -> float:
        """Seconds that a request waits for its next token."""
        return self.batch / self.tokens_per_second

    @property
    def spread(self) -> float:
        """(fastest - slowest) / median of the decode rates."""
        return (max(self.decode_rates) - min(self.decode_rates)) / self.tokens_per_second

    @property
    def fraction(self) -> float | None:
        """How much of the limit is reached."""
        return None if self.limit is None else self.tokens_per_second / self.limit


def format_standings(standings: Sequence[Standing]) -> str:
    """A table with a line each."""
    heads = ("batch", "TTFT, ms", "TPOT, ms", "tokens/s", "spread", "of the limit")
    lines = ["".ljust(28) + "".join(f"{head:>{max(9, len(head) + 2)}}" for head in heads)]
    for row in standings:
        reached = "-" if row.fraction is None else f"{row.fraction:.0%}"
        lines.append(
            f"{row.name:<28}{row.batch:>9}{1e3 * row.ttft:>10.1f}{1e3 * row.tpot:>10.2f}"
            f"{row.tokens_per_second:>10,.0f}{row.spread:>9.0%}{reached:>14}"
        )
    return "\n".join(lines)


def equal_requests(batch: int, *, vocab: int, prompt_len: int, output_len: int, seed: int = 0) -> Requests:
    """`batch` requests of one length: whoever pads short prompts pays nothing for it here."""
    if output_len < 2:
        raise ConfigError("a speed needs a second token", expected="2 or more", got=output_len, where="output_len")
    lens = {"prompt_lens": (prompt_len, prompt_len), "output_lens": (output_len, output_len)}
    return mixed_requests(batch, vocab=vocab, seed=seed, **lens)


def engine_contestant(name: str, engine: Engine, *, element_bytes: int) -> Contestant:
    """All requests at once; element_bytes: 2 where the engine computes in 16 bits, 4 in 32."""

    def run(requests: Requests) -> list[ServedRequest]:
        started = time.perf_counter()
        times: list[list[float]] = [[] for _ in requests]

        def note(index: int, token_ids: list[int]) -> None:
            times[index] += [time.perf_counter() - started] * len(token_ids)

        work_off(engine, requests, note)
        return [_served(request, arrivals) for request, arrivals in zip(requests, times, strict=True)]

    return Contestant(name, run, engine.spec, engine_storage(engine, element_bytes))


def transformers_contestant(name: str, model: Any, spec: ModelSpec, *, kind: str = "eager") -> Contestant:
    """All requests in one `generate`; kind: eager as it comes, compiled with a static cache (hf_decode.py)."""
    import torch

    def run(requests: Requests) -> list[ServedRequest]:
        num_outputs = requests[0].num_output_tokens
        ids = torch.tensor([request.prompt_ids for request in requests], device=model.device)
        settings = {"max_new_tokens": num_outputs, "min_new_tokens": num_outputs, "do_sample": False, "pad_token_id": 0}
        clock = TokenClock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.generate(
                ids, attention_mask=torch.ones_like(ids), stopping_criteria=[clock], **settings, **HF_KINDS[kind]
            )
        return [_served(request, clock.times) for request in requests]

    size = model.dtype.itemsize
    return Contestant(name, run, spec, Storage(size, size, size, size, size))


def hold_contest(
    contestants: Sequence[Contestant],
    requests: Requests,
    *,
    device: Device | None = None,
    warmups: int = 1,
    repeats: int = 3,
) -> list[Standing]:
    """Everyone's standing on the same requests; they take turns. `device` gives the limits."""
    runs: list[list[list[ServedRequest]]] = [[] for _ in contestants]
    for turn in range(warmups + repeats):
        for contestant, kept in zip(contestants, runs, strict=True):
            served = _checked(contestant, requests)
            if turn >= warmups:
                kept.append(served)
    limits = [None if device is None else contestant.limit(device, requests) for contestant in contestants]
    return [_standing(c.name, kept, limit) for c, kept, limit in zip(contestants, runs, limits, strict=True)]


def _checked(contestant: Contestant, requests: Requests) -> list[ServedRequest]:
    served = contestant.run(requests)
    wanted, got = ([entry.num_output_tokens for entry in entries] for entries in (requests, served))
    if wanted != got:
        raise ConfigError(f"{contestant.name} did other work: its speed cannot be compared", expected=wanted, got=got)
    return served


def _served(request: GenerationRequest, arrivals: Sequence[float]) -> ServedRequest:
    return ServedRequest(0.0, tuple(arrivals), len(request.prompt_ids), len(arrivals))


def _standing(name: str, runs: Sequence[Sequence[ServedRequest]], limit: float | None) -> Standing:
    num_tokens = sum(request.num_output_tokens for request in runs[0])
    after_first = num_tokens - len(runs[0])
    seconds = [max(r.arrivals[-1] for r in run) - min(r.arrivals[0] for r in run) for run in runs]
    return Standing(
        name, len(runs[0]), num_tokens,
        ttfts=tuple(statistics.mean(request.ttft for request in run) for run in runs),
        decode_rates=tuple(after_first / max(value, 1e-9) for value in seconds),
        limit=limit,
    )  # fmt: skip
