"""How fast an engine decodes and prefills, beside what bytes and FLOPs allow.

    decode     256·B / (t(257 outputs) - t(1 output)), tokens/s: what prefill and start take cancels out
    prefill    one prompt in, one token out, milliseconds
    serving    many requests of mixed lengths at once, output tokens/s

Each is the median of repeated runs, with their spread, after a run that counts for nothing. Limits are accounting.py's
for what this engine stores: its weights and its KV cache as they are in memory, whatever their formats.

Lesson: 3 (predict, then measure)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmcourse.accounting import Storage, count_parameters, decode_seconds, prefill_seconds
from lmcourse.bench.measure import run_engine
from lmcourse.bench.stand import Stand
from lmcourse.bench.workloads import GenerationRequest, mixed_requests
from lmcourse.errors import ConfigError

if TYPE_CHECKING:
    from lmcourse.engine import Engine

__all__ = ["Speed", "engine_storage", "measure_decode", "measure_prefill", "measure_serving", "storage_of"]


@dataclass(frozen=True)
class Speed:
    """One row: what was run, its value in `unit`, and the limit in the same unit (None: nothing predicts it)."""

    what: str  # decode, prefill, serving, or transformers' side of one
    size: int  # requests at once, or a prompt's tokens
    value: float
    unit: str
    spread: float  # (largest - smallest) / median of the repeats
    limit: float | None
    num_repeats: int

    @property
    def fraction(self) -> float | None:
        """How much of the limit is reached: 1 is all there is, for rates and for times."""
        if self.limit is None:
            return None
        return self.limit / self.value if self.unit == "ms" else self.value / self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"{self.limit:12,.1f}{self.fraction or 0:10.0%}"
        size = f"{self.size} tokens" if self.unit == "ms" else f"{self.size} at once"
        return f"{self.what:28}{size:>14}{self.value:12,.1f} {self.unit:8}{self.spread:8.1%}{limit}"

    def to_json(self) -> dict[str, Any]:
        """Rounded to what repeats can tell."""
        row = {"what": self.what, "size": self.size, "value": float(f"{self.value:.5g}"), "unit": self.unit}
        row |= {"spread": round(self.spread, 4), "repeats": self.num_repeats}
        if self.fraction is None or self.limit is None:
            return row
        return row | {"limit": float(f"{self.limit:.5g}"), "fraction": round(self.fraction, 4)}


def measure_decode(
    stand: Stand, *, batch: int, prompt_len: int = 128, output_len: int = 257, repeats: int = 3
) -> Speed:
    """Tokens per second of `batch` requests of equal length, which decode together."""
    if output_len < 2:
        raise ConfigError("a decode needs outputs", expected="2 or more", got=output_len, where="output_len")

    def requests(num_outputs: int, seed: int) -> list[GenerationRequest]:
        lens = {"prompt_lens": (prompt_len, prompt_len), "output_lens": (num_outputs, num_outputs)}
        return mixed_requests(batch, vocab=stand.spec.vocab, seed=seed, **lens)

    _seconds(stand, requests(output_len, 0))
    rates = []
    for seed in range(1, repeats + 1):
        short, long = (_seconds(stand, requests(n, seed)) for n in (1, output_len))
        rates.append((output_len - 1) * batch / max(long - short, 1e-9))
    context = prompt_len + output_len // 2
    limit = batch / decode_seconds(
        stand.spec, stand.limits.device, batch=batch, context=context, storage=storage_of(stand)
    )
    return _speed("decode", batch, rates, "tok/s", limit)


def measure_prefill(stand: Stand, *, num_tokens: int, repeats: int = 5) -> Speed:
    """Milliseconds from a prompt to its first token."""
    one = {"prompt_lens": (num_tokens, num_tokens), "output_lens": (1, 1)}
    times = [
        1000 * _seconds(stand, mixed_requests(1, vocab=stand.spec.vocab, seed=seed, **one))
        for seed in range(repeats + 1)
    ]
    limit = prefill_seconds(stand.spec, stand.limits.device, num_tokens=num_tokens, storage=storage_of(stand))
    return _speed("prefill", num_tokens, times[1:], "ms", 1000 * limit)


def measure_serving(
    stand: Stand,
    requests: Sequence[GenerationRequest],
    *,
    repeats: int = 1,
    warmup: Sequence[GenerationRequest] | None = None,
) -> Speed:
    """Output tokens per second of all requests, given at once; `warmup` (None: the same) compiles and captures."""
    _seconds(stand, requests if warmup is None else warmup)
    num_tokens = sum(request.num_output_tokens for request in requests)
    rates = [num_tokens / _seconds(stand, requests) for _ in range(repeats)]
    return _speed("serving", len(requests), rates, "tok/s", None)


def storage_of(stand: Stand) -> Storage:
    """What the stand's engine holds, in bytes an element."""
    return engine_storage(stand.engine, stand.dtype.itemsize)


def engine_storage(engine: Engine, element_bytes: int) -> Storage:
    """Bytes an element, from what the engine's memory holds: the layers' matrices bear what other tensors do not."""
    spec, stats = engine.spec, engine.stats()
    parameters = count_parameters(spec)
    others = element_bytes * (parameters.embedding + parameters.vectors + parameters.head)
    per_token = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim
    return Storage(
        body_bytes=(stats.weight_bytes - others) / parameters.body,
        head_bytes=element_bytes,
        vector_bytes=element_bytes,
        embedding_bytes=element_bytes,
        kv_bytes=stats.kv_bytes / (stats.num_blocks * stats.tokens_per_block * per_token),
    )


def _seconds(stand: Stand, requests: Sequence[GenerationRequest]) -> float:
    started = time.perf_counter()
    answers = run_engine(stand.engine, requests)
    seconds = time.perf_counter() - started
    assert [len(ids) for ids in answers] == [request.num_output_tokens for request in requests]
    return seconds


def _speed(what: str, size: int, values: Sequence[float], unit: str, limit: float | None) -> Speed:
    middle = statistics.median(values)
    return Speed(what, size, middle, unit, (max(values) - min(values)) / middle, limit, len(values))
