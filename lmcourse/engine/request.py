"""Request: one sequence from the moment it is added until it is finished or aborted. No torch.

The idea: there is no "prefill phase" and no "decode phase". A request knows some tokens and has computed some of
them; the scheduler lets the second number catch up with the first. When it does, one token is sampled and there is
one more to compute.

    token_ids   │ prompt ················│ output ····· │
                0          num_computed          num_tokens
                │ keys and values cached │ still to compute │

Contract: 0 <= num_computed < num_tokens <= max_tokens, and `blocks` covers at least the computed tokens. Only the
scheduler changes num_computed, blocks and state; only `append` adds tokens.

Lesson: 3 (continuous batching)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from hashlib import blake2b

__all__ = ["Request", "RequestState"]


class RequestState(Enum):
    """Where a request stands; it leaves RUNNING for WAITING when it is preempted."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Request:
    """The ids, the block table and the progress of one sequence."""

    def __init__(
        self,
        request_id: int,
        prompt_ids: Iterable[int],
        max_tokens: int,
        identity: Mapping[int, bytes] | None = None,
    ) -> None:
        """`max_tokens` counts prompt and output; the last token is never computed and takes no room in the cache.

        identity: what keys and values depend on besides token ids, at the position where it begins: the hash of an
        image whose placeholder tokens stand there, a rotary scaling at position 0.
        """
        self.request_id = request_id
        self.token_ids = list(prompt_ids)
        self.prompt_len = len(self.token_ids)
        self.max_tokens = max_tokens
        self.distinct_ids = set(self.token_ids)  # what a repetition penalty looks at
        self.num_computed = 0
        self.blocks: list[int] = []
        self.state = RequestState.WAITING
        self._identity = dict(identity or {})
        self._block_keys: list[bytes] = []

    @property
    def num_tokens(self) -> int:
        """Tokens known so far: the target that num_computed runs after."""
        return len(self.token_ids)

    @property
    def num_to_compute(self) -> int:
        """How far num_computed is behind; 1 for a request that decodes."""
        return len(self.token_ids) - self.num_computed

    @property
    def num_outputs(self) -> int:
        """Tokens sampled so far."""
        return len(self.token_ids) - self.prompt_len

    @property
    def output_ids(self) -> list[int]:
        """A copy of the sampled tokens."""
        return self.token_ids[self.prompt_len :]

    def block_keys(self, tokens_per_block: int) -> Sequence[bytes]:
        """A key for each block that the known tokens fill: equal keys mean equal contents, from position 0 on."""
        for start in range(len(self._block_keys) * tokens_per_block, self.num_tokens, tokens_per_block):
            stop = start + tokens_per_block
            if stop > self.num_tokens:
                break
            parent = self._block_keys[-1] if self._block_keys else b""
            chain = blake2b(parent + array("q", self.token_ids[start:stop]).tobytes(), digest_size=16)
            for position in sorted(place for place in self._identity if start <= place < stop):
                chain.update(position.to_bytes(8, "little") + blake2b(self._identity[position]).digest())
            self._block_keys.append(chain.digest())
        return self._block_keys

    def append(self, token_id: int) -> None:
        """Take over a sampled token."""
        self.distinct_ids.add(token_id)
        self.token_ids.append(token_id)

    def check(self, tokens_per_block: int) -> None:
        """Raise AssertionError unless the invariant holds."""
        assert 0 <= self.num_computed < self.num_tokens <= self.max_tokens, repr(self)
        room = len(self.blocks) * tokens_per_block
        assert self.num_computed <= room, f"{self!r}: {self.num_computed} computed tokens in room for {room}"
        assert self.state is RequestState.RUNNING or not self.blocks, f"{self!r} owns blocks without running"

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id}, {self.state.value}, prompt={self.prompt_len}, output={self.num_outputs}, "
            f"computed={self.num_computed}, blocks={len(self.blocks)})"
        )
