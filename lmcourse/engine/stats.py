"""EngineStats: the sizes and the load of an engine at one moment, for people, plots and a server's metrics. No torch.

AccountLoad is one account's part of the load. Blocks that several requests share count for each of them.

Lesson: 3 (memory while a model runs)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lmcourse.engine.request import Request, RequestState

__all__ = ["AccountLoad", "EngineStats", "count_loads"]


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


@dataclass(frozen=True)
class AccountLoad:
    """What one account has in the engine at one moment."""

    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0  # KV blocks of the running ones
    num_tokens: int = 0  # prompts and what is known of the answers


def count_loads(requests: Iterable[Request]) -> dict[str | None, AccountLoad]:
    """The unfinished requests by account; None: those that are nobody's in particular."""
    loads: dict[str | None, AccountLoad] = {}
    for request in requests:
        load, runs = loads.get(request.account, AccountLoad()), request.state is RequestState.RUNNING
        loads[request.account] = AccountLoad(
            load.num_running + runs,
            load.num_waiting + (not runs),
            load.num_blocks + len(request.blocks),
            load.num_tokens + request.num_tokens,
        )
    return loads
