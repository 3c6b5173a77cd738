"""Home: the process that an engine lives in, and the only one that can compute with it.

    fork      the child has the engine's memory and none of its threads: a matrix product there waits for ever
    pickle    a copy would carry the weights and the whole KV cache along, gigabytes for each worker of a pool

The idea: both are refused before anything is computed or copied, with what to do instead.

Contract: whoever owns threads or device memory makes its Home first thing and asks it before it works.

Lesson: 2 (the engine's chat)
"""

from __future__ import annotations

import os
from typing import NoReturn

from lmcourse.errors import EngineClosedError

__all__ = ["Home"]


class Home:
    """Remembers the process that made it; cannot be pickled or copied, and so nor can what holds it."""

    def __init__(self) -> None:
        self._process_id = os.getpid()

    @property
    def is_here(self) -> bool:
        """False in a process that was forked from the engine's."""
        return os.getpid() == self._process_id

    def require(self) -> None:
        """EngineClosedError in a process that was forked from the engine's."""
        if not self.is_here:
            raise EngineClosedError(
                "the engine is in another process, from which this one was forked",
                expected=f"calls from process {self._process_id}",
                got=f"process {os.getpid()}",
                next_step="call it from threads, whose requests share a batch; or start processes by 'spawn', make a "
                "pipeline in each, or have them ask `lmcourse serve api_server`",
            )

    def __reduce__(self) -> NoReturn:
        raise EngineClosedError(
            "an engine cannot be copied or sent to another process",
            expected="one process with the weights and the KV cache",
            got="pickle or deepcopy",
            next_step="use threads, whose requests share a batch, or make a pipeline in each process",
        )
