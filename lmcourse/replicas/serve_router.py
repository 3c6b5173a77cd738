"""PrefixRouter: routing.py in Ray Serve's form. Imported only where Ray is.

Ray Serve asks for an order of the replicas, tries them in turn, and leaves out those that died. Load is what this
router itself has sent and has not seen end, counted from the moment of the choice, so that fifty requests that come at
once do not all find the same replica idle.

Source: Ray Serve's custom request routers (ray.serve.request_router).
Lesson: 5 (prefix caching, over several engines)
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from lmcourse.replicas.routing import order_replicas

__all__ = ["PrefixRouter"]


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Reads the keyword arguments `key` and `avoid` of a call; the replica takes them and does not need them."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Ray's constructor for what is our own."""
        self._chosen: dict[str, tuple[str, asyncio.Future[Any]]] = {}  # by request: replica, cancelled or not

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Best first, one at a time."""
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        told = {} if pending_request is None else pending_request.kwargs
        names = order_replicas(told.get("key"), self._loads(list(by_name)), told.get("avoid", ()))
        if pending_request is not None and names:
            self._chosen[pending_request.metadata.internal_request_id] = (names[0], pending_request.future)
            pending_request.routing_context.should_backoff = True  # after one round of all of them
        return [[by_name[name]] for name in names]

    def _loads(self, names: list[str]) -> dict[str, int]:
        gone = [key for key, (_, future) in self._chosen.items() if future.cancelled()]
        for key in gone:
            self._chosen.pop(key, None)
        loads = dict.fromkeys(names, 0)
        for name, _ in list(self._chosen.values()):
            if name in loads:
                loads[name] += 1
        return loads

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """It went there, perhaps not to the first choice."""
        key = pending_request.metadata.internal_request_id
        self._chosen[key] = (replica_id.unique_id, pending_request.future)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """It ended, in one way or another."""
        self._chosen.pop(internal_request_id, None)
