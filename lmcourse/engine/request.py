"""Request: one sequence from the moment it is added until it is finished or aborted. No torch.

The idea: there is no "prefill phase" and no "decode phase". A request knows some tokens and has computed some of
them; the scheduler lets the second number catch up with the first. When it does, one token is sampled and there is
one more to compute. A step that was launched counts as computed, and the token that it will sample as known
(`num_pending`), long before the host learns which token it is.

    token_ids   │ prompt ················│ output ····· │ pending │
                0          num_computed               num_tokens
                │ keys and values cached │ still to compute    │

Contract: 0 <= num_computed < num_tokens <= max_tokens, and `blocks` covers at least the computed tokens. Only the
scheduler changes num_computed, num_pending, blocks and state; only `append` adds tokens.

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
        *,
        needs_host: bool = False,
        account: str | None = None,
    ) -> None:
        """`max_tokens` counts prompt and output; the last token is never computed and takes no room in the cache.

        identity: what keys and values depend on besides token ids, at the position where it begins: the hash of an
        image whose placeholder tokens stand there, a rotary scaling at position 0. needs_host: the host must know every
        token before the next can be computed. account: whose request it is; None: nobody's in particular.
        """
        self.request_id = request_id
        self.token_ids = list(prompt_ids)
        self.prompt_len = len(self.token_ids)
        self.max_tokens = max_tokens
        self.distinct_ids = set(self.token_ids)  # what a repetition penalty looks at
        self.needs_host = needs_host
        self.account = account
        self.num_computed = 0
        self.num_pending = 0  # sampled, or about to be, by a step whose results the host has not seen
        self.blocks: list[int] = []
        self.state = RequestState.WAITING
        self._identity = dict(identity or {})
        self._block_keys: list[bytes] = []

    @property
    def num_tokens(self) -> int:
        """Tokens there are so far: the target that num_computed runs after."""
        return len(self.token_ids) + self.num_pending

    @property
    def num_wanted(self) -> int:
        """Tokens whose keys and values are wanted now: all there are, but never the last that there may be."""
        return min(len(self.token_ids) + self.num_pending, self.max_tokens - 1)

    @property
    def num_to_compute(self) -> int:
        """How far num_computed is behind; 1 for a request that decodes, 0 for one that must wait for the host."""
        if self.num_pending and self.needs_host:
            return 0
        present, last = len(self.token_ids) + self.num_pending, self.max_tokens - 1
        return (present if present < last else last) - self.num_computed

    @property
    def num_outputs(self) -> int:
        """Tokens sampled so far, or on their way."""
        return len(self.token_ids) + self.num_pending - self.prompt_len

    @property
    def output_ids(self) -> list[int]:
        """A copy of the sampled tokens that the host knows."""
        return self.token_ids[self.prompt_len :]

    def block_keys(self, tokens_per_block: int) -> Sequence[bytes]:
        """A key for each block that the known tokens fill: equal keys mean equal contents, from position 0 on."""
        num_known = len(self.token_ids)
        for start in range(len(self._block_keys) * tokens_per_block, num_known, tokens_per_block):
            stop = start + tokens_per_block
            if stop > num_known:
                break
            parent = self._block_keys[-1] if self._block_keys else b""
            chain = blake2b(parent + array("q", self.token_ids[start:stop]).tobytes(), digest_size=16)
            for position in sorted(place for place in self._identity if start <= place < stop):
                chain.update(position.to_bytes(8, "little") + blake2b(self._identity[position]).digest())
            self._block_keys.append(chain.digest())
        return self._block_keys

    def append(self, token_id: int) -> None:
        """Take over a sampled token; a pending one is pending no more."""
        self.distinct_ids.add(token_id)
        self.token_ids.append(token_id)
        self.num_pending = max(0, self.num_pending - 1)

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
