"""Which replica takes a request: the one that has its beginning in its cache, unless that one is busier than the rest.

    prompt ─→ hash of its first blocks ─→ an order of the replicas, the same for every request that begins alike
                                          └→ the first in it whose load is at most 1.25 of the mean, and one

Rendezvous hashing: when a replica goes, its requests are spread over the others, and no other request changes its
place. A prompt without a full block has no order: it goes where the load is least. No Ray, no torch.

In a class a student has a home: the replica with the fewest others at work when he came. Only replicas where nobody
else works take his requests beside it. So a flood fills one replica, not all, and has one part of one fair queue, not
one of each; homes differ by one student at most when somebody comes, so parts differ as 1/n and 1/(n + 1) do.

Source: Thaler, Ravishankar 1998; bounded loads: arXiv 1608.01350.
Lesson: 5 (prefix caching, over several engines)
"""

from __future__ import annotations

import hashlib
import math
import time
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

__all__ = ["AtWork", "Homes", "order_replicas", "prefix_key"]

AtWork = Mapping[str, Counter[str | None]]  # answers under way by account, for each replica

_FIRST_BLOCKS = 2  # a system prompt, mostly; more would part the turns of one conversation
_LOAD_CAP = 1.25  # of the mean load
_LINGER_SECONDS = 2.0  # who asks again within these was not away


def prefix_key(prompt_ids: Sequence[int], tokens_per_block: int) -> bytes | None:
    """What prompts with the same first full blocks have in common; None for one that fills no block."""
    num_blocks = min(_FIRST_BLOCKS, len(prompt_ids) // tokens_per_block)
    if num_blocks == 0:
        return None
    first = array("q", prompt_ids[: num_blocks * tokens_per_block])
    return hashlib.blake2b(first.tobytes(), digest_size=16).digest()


def order_replicas(key: bytes | None, loads: Mapping[str, int], avoid: Collection[str] = ()) -> list[str]:
    """The names of `loads` (answers under way by replica), best first; those to avoid come last."""
    if key is None:
        return sorted(loads, key=lambda name: (name in avoid, loads[name], name))
    cap = math.floor(_LOAD_CAP * sum(loads.values()) / max(1, len(loads))) + 1
    return sorted(loads, key=lambda name: (name in avoid, loads[name] >= cap, -_affinity(key, name), name))


def _affinity(key: bytes, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), key=key, digest_size=8).digest(), "big")


class Homes:
    """Where each account of a class belongs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._homes: dict[str, str] = {}
        self._seen: dict[str, dict[str | None, float]] = {}  # by replica: when an account was last seen at work there

    def order(self, account: str, at_work: AtWork, best: Sequence[str], avoid: Collection[str]) -> list[str]:
        """The names in `best`, which are in the order without a class, as this account should ask them."""
        usable = [name for name in best if name not in avoid] or list(best)
        if not usable:
            return []
        present = self._look(at_work)
        others = {name: len(present[name] - {account}) for name in best}
        home = self._homes.get(account, "")
        works = any(account in at_work[name] for name in usable)
        if home not in usable or not (works or others[home] <= min(others[name] for name in usable) + 1):
            home = self._homes[account] = min(usable, key=others.__getitem__)
        allowed = {name for name in usable if name == home or not others[name]}
        load = {name: at_work[name].total() if len(allowed) > 1 else 0 for name in best}
        return sorted(best, key=lambda name: (name not in allowed, load[name]))

    def _look(self, at_work: AtWork) -> dict[str, set[str | None]]:
        """Who is at work on each replica, or was a moment ago."""
        now = self._clock()
        for name, work in at_work.items():
            before = {who: at for who, at in self._seen.get(name, {}).items() if now - at < _LINGER_SECONDS}
            self._seen[name] = before | dict.fromkeys(work, now)
        self._seen = {name: seen for name, seen in self._seen.items() if name in at_work}
        return {name: set(seen) for name, seen in self._seen.items()}
