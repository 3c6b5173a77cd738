"""Metrics: what Prometheus reads at /metrics: the load now, and how long answers take.

    TTFT  seconds from the asking to the first token       TPOT  seconds per token after the first

Gauges are read from the engine when somebody asks; histograms grow as answers come.

Lesson: 5 (watching a server)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.responses import Response

from lmcourse.engine import EngineStats, StepOutput
from lmcourse.serve.errors import FORBIDDEN, REFUSALS

__all__ = ["Clock", "Metrics", "metrics_routes"]

_TTFT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TPOT_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class _Load(Collector):
    """The engine's gauges."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily]:
        stats = self._stats()
        used = stats.num_blocks - stats.num_free_blocks - stats.num_cached_blocks
        yield GaugeMetricFamily("lmcourse_requests_running", "Answers in the batch.", stats.num_running)
        yield GaugeMetricFamily("lmcourse_requests_waiting", "Answers that wait for a place.", stats.num_waiting)
        yield GaugeMetricFamily("lmcourse_kv_blocks_used", "KV blocks that requests own.", used)
        yield GaugeMetricFamily("lmcourse_kv_blocks_total", "KV blocks in the cache.", stats.num_blocks)
        told = "Prompt tokens found in the cache, as a share of all; 0 without prefix caching."
        yield GaugeMetricFamily("lmcourse_prefix_hit_ratio", told, stats.hit_ratio)


class Metrics:
    """One server's numbers."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Load(stats))
        own = self.registry
        self.ttft = Histogram(
            "lmcourse_time_to_first_token_seconds", "From the asking to the first token.", registry=own,
            buckets=_TTFT_SECONDS,
        )  # fmt: skip
        self.tpot = Histogram(
            "lmcourse_time_per_output_token_seconds", "Per token after the first.", registry=own, buckets=_TPOT_SECONDS
        )
        self.answers = Counter("lmcourse_answers", "Answers that ended.", ["finish_reason"], registry=own)
        self.prompt_tokens = Counter("lmcourse_prompt_tokens", "Tokens of prompts.", registry=own)
        self.output_tokens = Counter("lmcourse_output_tokens", "Tokens of answers.", registry=own)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class Clock:
    """Times the answers of one request."""

    def __init__(self, metrics: Metrics, note_answer: Callable[[float], None]) -> None:
        """Starts now; note_answer is told the seconds of each whole answer."""
        self._metrics, self._note_answer = metrics, note_answer
        self._asked_at = time.perf_counter()
        self._first: dict[int, float] = {}  # by answer: when its first token came
        self._num_tokens: dict[int, int] = {}

    def note(self, index: int, output: StepOutput) -> None:
        """A piece has come."""
        now = time.perf_counter()
        if output.token_ids:
            if index not in self._first:
                self._first[index] = now
                self._metrics.ttft.observe(now - self._asked_at)
            self._num_tokens[index] = self._num_tokens.get(index, 0) + len(output.token_ids)
            self._metrics.output_tokens.inc(len(output.token_ids))
        if output.finish_reason is not None:
            self._metrics.answers.labels(output.finish_reason).inc()
            self._note_answer(now - self._asked_at)
            if (num_tokens := self._num_tokens.get(index, 0)) > 1:
                self._metrics.tpot.observe((now - self._first[index]) / (num_tokens - 1))


def metrics_routes(metrics: Metrics) -> APIRouter:
    """The route on a server's numbers."""
    router = APIRouter(tags=["Watching"])
    answers: dict[int | str, dict[str, Any]] = {
        401: REFUSALS[401],
        **FORBIDDEN,
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    }

    @router.get("/metrics", response_class=Response, responses=answers)
    async def read_metrics() -> Response:
        """Load and times, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
