"""Step tables whose times can be said by heart."""

from __future__ import annotations

from typing import Any

from lmcourse.bench.capacity_steps import DecodePoint, MixedPoint, PromptPoint, StepTable


def make_table(**changed: Any) -> StepTable:
    """A step of decodes takes 10 ms, a token of a prompt 10 ms; nothing is saved by doing both at once."""
    given: dict[str, Any] = {
        "head": {"model": "toy", "settings": {}, "machine": {"gpu": None, "cpu": "a clock", "threads": 1}},
        "decode": tuple(DecodePoint(batch, context, 10.0) for batch in (1, 64) for context in (16, 512)),
        "prompts": (PromptPoint(1, 10, 100.0), PromptPoint(1, 100, 1000.0)),
        "mixed": (),
        "num_blocks": 1000,
        "tokens_per_block": 16,
        "max_running": 64,
        "max_tokens_per_step": 512,
        "overlap": False,
    }
    return StepTable(**{**given, **changed})


def toy_mixed(ms: float) -> tuple[MixedPoint, ...]:
    return (MixedPoint(8, 100, 10, ms),)
