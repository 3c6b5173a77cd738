"""Latencies of served requests: what a waiting person feels, as numbers, from the times at which tokens arrived.

    sent        first token                  last token
     |─── TTFT ───|── ITL ──|─ ITL ─|── ITL ───|          TPOT = (last - first) / (tokens - 1)
     |──────────────── latency ─────────────────|

TTFT: time to first token. ITL: a gap between two arrivals. TPOT: time per output token after the first. Goodput: the
requests per second that were answered within promised TTFT and TPOT; throughput counts the late ones, too.

Lesson: 5 (what to measure)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from lmcourse.errors import ConfigError

__all__ = ["PERCENTILES", "Promise", "ServedRequest", "ServingResult", "percentile"]

PERCENTILES = (50, 90, 95, 99)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    if not ordered or not 0 < share <= 100:
        raise ConfigError("a percentile needs values and a share above 0, at most 100", got=(len(ordered), share))
    return ordered[math.ceil(share / 100 * len(ordered)) - 1]


@dataclass(frozen=True)
class ServedRequest:
    """Times in seconds since the run began; `arrivals` are those of chunks with text. `error` names a failure."""

    sent_at: float
    arrivals: tuple[float, ...]
    num_prompt_tokens: int
    num_output_tokens: int
    error: str | None = None

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.sent_at

    @property
    def tpot(self) -> float | None:
        """None for an answer of one token, which has no second."""
        if self.num_output_tokens < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.num_output_tokens - 1)

    @property
    def latency(self) -> float:
        return self.arrivals[-1] - self.sent_at

    @property
    def gaps(self) -> list[float]:
        return [later - sooner for sooner, later in pairwise(self.arrivals)]


@dataclass(frozen=True)
class Promise:
    """What a service promises, in seconds."""

    ttft: float
    tpot: float

    def kept_by(self, request: ServedRequest) -> bool:
        return request.ttft <= self.ttft and (request.tpot or 0.0) <= self.tpot


@dataclass(frozen=True)
class ServingResult:
    """All requests of a run, from the first sent to the last answered, and what they add up to."""

    url: str
    model: str
    settings: dict[str, Any]
    requests: tuple[ServedRequest, ...]
    seconds: float
    promise: Promise | None
    machine: dict[str, Any]  # the one that asked

    @property
    def answered(self) -> list[ServedRequest]:
        return [request for request in self.requests if request.error is None]

    @property
    def failures(self) -> dict[str, int]:
        """How often each error came."""
        errors = [request.error for request in self.requests if request.error is not None]
        return {error: errors.count(error) for error in dict.fromkeys(errors)}

    @property
    def goodput(self) -> float | None:
        """Requests per second within the promise; None if nothing was promised."""
        if self.promise is None:
            return None
        return sum(map(self.promise.kept_by, self.answered)) / self.seconds

    def latencies(self) -> dict[str, list[float]]:
        """Seconds, by what they are."""
        answered = self.answered
        return {
            "TTFT": [request.ttft for request in answered],
            "TPOT": [tpot for request in answered if (tpot := request.tpot) is not None],
            "ITL": [gap for request in answered for gap in request.gaps],
            "latency": [request.latency for request in answered],
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": "serve",
            **{name: getattr(self, name) for name in ("url", "model", "settings", "seconds", "machine", "failures")},
            "promise_seconds": None if self.promise is None else asdict(self.promise),
            "num_answered": len(self.answered),
            "requests_per_second": len(self.answered) / self.seconds,
            "output_tokens_per_second": self._count("num_output_tokens") / self.seconds,
            "goodput_requests_per_second": self.goodput,
            "seconds_by_percentile": {name: _spread(values) for name, values in self.latencies().items() if values},
            "requests": [asdict(request) for request in self.requests],
        }

    def _count(self, name: str) -> int:
        return sum(getattr(request, name) for request in self.answered)

    def __str__(self) -> str:
        lines = [
            f"{self.model} at {self.url}",
            f"{len(self.answered)} of {len(self.requests)} requests answered in {self.seconds:.2f} s",
            f"{self._count('num_prompt_tokens')} prompt and {self._count('num_output_tokens')} output tokens",
            "",
            f"{'requests/s':>18} {len(self.answered) / self.seconds:10.2f}",
            f"{'output tokens/s':>18} {self._count('num_output_tokens') / self.seconds:10.1f}",
        ]
        if self.promise is not None:
            promised = f"(TTFT {self.promise.ttft * 1e3:g} ms, TPOT {self.promise.tpot * 1e3:g} ms)"
            lines.append(f"{'goodput, requests/s':>18} {self.goodput:9.2f}  {promised}")
        heads = "".join(f"{'p' + str(share):>10}" for share in PERCENTILES)
        lines += ["", f"{'milliseconds':>18} {'mean':>10}{heads}"]
        for name, values in self.latencies().items():
            if values:
                shown = _spread(values)
                lines.append(f"{name:>18} " + "".join(f"{seconds * 1e3:10.2f}" for seconds in shown.values()))
        lines += [f"failed {count} times: {error}" for error, count in self.failures.items()]
        return "\n".join(lines)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": sum(values) / len(values),
        **{f"p{share}": percentile(values, share) for share in PERCENTILES},
    }
