"""EngineStats: the sizes and the load of an engine at one moment, for people, plots and a server's metrics. No torch.

Lesson: 3 (memory while a model runs)
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EngineStats"]


@dataclass(frozen=True)
class EngineStats:
    """Sizes of the engine, its present load, and sums since it was made."""

    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int
    tokens_per_block: int
    session_len: int
    weight_bytes: int
    kv_bytes: int
    num_steps: int
    num_computed_tokens: int  # prompts, outputs and what preemption made to be computed again
    num_sampled_tokens: int
    num_preemptions: int
    num_admitted_tokens: int = 0  # known when their requests were admitted, again after a preemption
    num_hit_tokens: int = 0  # of those, found in the prefix cache
    num_spare_blocks: int = 0  # beyond num_blocks: where recorded steps write their padding

    @property
    def hit_ratio(self) -> float:
        """Share of admitted tokens that the prefix cache had; 0 before the first."""
        return self.num_hit_tokens / max(1, self.num_admitted_tokens)
