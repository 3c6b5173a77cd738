"""PrefixRouter: routing.py in Ray Serve's form. Imported only where Ray is.

Ray Serve asks for an order of the replicas, tries them in turn, and leaves out those that died. Load is what this
router itself has sent and has not seen end, counted from the moment of the choice, so that fifty requests that come at
once do not all find the same replica idle. Of a class, each student's requests go to his home.

Source: Ray Serve's custom request routers (ray.serve.request_router).
Lesson: 5 (prefix caching, over several engines)
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, NamedTuple

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from lmcourse.replicas.carried import CarriedOrder
from lmcourse.replicas.routing import Homes, order_replicas

__all__ = ["PrefixRouter"]


class _Choice(NamedTuple):
    """Where a request was sent, whether it was cancelled, and whose it is."""

    replica: str
    future: asyncio.Future[Any]
    account: str | None


def _account_of(request: PendingRequest) -> str | None:
    order: CarriedOrder = request.args[0]
    return order.account


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Reads the keyword arguments `key` and `avoid` of a call; the replica takes them and does not need them."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Ray's constructor for what is our own."""
        self._chosen: dict[str, _Choice] = {}  # by request
        self._homes = Homes()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Best first, one at a time."""
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        told = {} if pending_request is None else pending_request.kwargs
        at_work, avoid = self._count(list(by_name)), told.get("avoid", ())
        names = order_replicas(told.get("key"), {name: work.total() for name, work in at_work.items()}, avoid)
        account = None if pending_request is None else _account_of(pending_request)
        if account is not None:
            names = self._homes.order(account, at_work, names, avoid)
        if pending_request is not None and names:
            self._chosen[pending_request.metadata.internal_request_id] = _Choice(
                names[0], pending_request.future, account
            )
            pending_request.routing_context.should_backoff = True  # after one round of all of them
        return [[by_name[name]] for name in names]

    def _count(self, names: list[str]) -> dict[str, Counter[str | None]]:
        """What is under way on each, by account."""
        gone = [key for key, choice in self._chosen.items() if choice.future.cancelled()]
        for key in gone:
            self._chosen.pop(key, None)
        at_work = {name: Counter[str | None]() for name in names}
        for choice in list(self._chosen.values()):
            if choice.replica in at_work:
                at_work[choice.replica][choice.account] += 1
        return at_work

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """It went there, perhaps not to the first choice."""
        key = pending_request.metadata.internal_request_id
        self._chosen[key] = _Choice(replica_id.unique_id, pending_request.future, _account_of(pending_request))

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """It ended, in one way or another."""
        self._chosen.pop(internal_request_id, None)
