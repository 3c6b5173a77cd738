"""Every error that lmcourse raises on purpose, as one tree.

    LmcourseError
    ├── ConfigError            a keyword or value of a config, a flag, a sampling parameter (also a ValueError)
    ├── PromptError            an empty prompt, one too long for the session, unknown ids (also a ValueError)
    ├── ModelNotFoundError     a model name that leads to no folder; lists what was tried
    ├── CheckpointError        files of a model that are missing, damaged, unsafe or of the wrong shape
    │   └── UnsupportedModelError   an architecture or format that no row of the family table covers
    ├── CalibrationError       calibration text that is too short, activations that are not finite
    ├── StorageError           writing failed (a full disk, say); nothing half-written is left behind
    ├── MemoryBudgetError      weights or KV blocks do not fit the device budget
    ├── RequestFailedError     computing some of the requests failed; the others go on
    ├── EngineClosedError      work given to an engine, pipeline or server that was closed
    ├── ServerError            a server that cannot be reached, breaks off or fails (also a ConnectionError)
    │   ├── KeyRefusedError    it wants a key, or another one
    │   └── ServerBusyError    its queue is full; retry_after_seconds says when to come back
    ├── ReplicaLostError       the replica that was answering died, or none is there to answer
    └── MachineError           something of the machine or installation is missing; says the command that fixes it

Each message has up to five parts: what happened, expected, got, where, next step. The parts stay attributes,
so that a server or a notebook can show them in its own form.
"""

from __future__ import annotations

__all__ = [
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "EngineClosedError",
    "KeyRefusedError",
    "LmcourseError",
    "MachineError",
    "MemoryBudgetError",
    "ModelNotFoundError",
    "PromptError",
    "ReplicaLostError",
    "RequestFailedError",
    "ServerBusyError",
    "ServerError",
    "StorageError",
    "UnsupportedModelError",
]


class LmcourseError(Exception):
    """An error with its parts: `what` in one sentence, then expected, got, where and next_step where they apply."""

    def __init__(
        self,
        what: str,
        *,
        expected: object = None,
        got: object = None,
        where: object = None,
        next_step: str | None = None,
    ) -> None:
        self.what, self.expected, self.got, self.where, self.next_step = what, expected, got, where, next_step
        parts = (("expected", expected), ("got", got), ("where", where), ("next step", next_step))
        super().__init__("\n".join([what, *(f"  {name}: {part}" for name, part in parts if part is not None)]))


class ConfigError(LmcourseError, ValueError):
    """A setting that does not exist or has a value outside its range."""


class PromptError(LmcourseError, ValueError):
    """A prompt that cannot be run as it is."""


class ModelNotFoundError(LmcourseError, FileNotFoundError):
    """A model name for which no folder was found."""


class CheckpointError(LmcourseError):
    """A model's files are missing, damaged, unsafe or do not fit its config."""


class UnsupportedModelError(CheckpointError):
    """A model whose architecture or storage format is not covered."""


class CalibrationError(LmcourseError):
    """A model cannot be calibrated with this text, or gives nothing finite for it."""


class StorageError(LmcourseError, OSError):
    """Writing to disk failed; what had been written was removed."""


class MemoryBudgetError(LmcourseError, MemoryError):
    """The device budget cannot hold what was asked for."""


class RequestFailedError(LmcourseError, RuntimeError):
    """Computing these requests failed. They have to be aborted; the others go on."""

    def __init__(
        self,
        what: str,
        *,
        request_ids: tuple[int, ...],
        expected: object = None,
        got: object = None,
        next_step: str | None = None,
    ) -> None:
        self.request_ids = request_ids
        where = f"request {', '.join(map(str, request_ids))}"
        super().__init__(what, expected=expected, got=got, where=where, next_step=next_step)


class EngineClosedError(LmcourseError, RuntimeError):
    """The engine was closed; make a new one."""


class ServerError(LmcourseError, ConnectionError):
    """A server cannot be reached, broke off, or answered with an error of its own."""


class KeyRefusedError(ServerError):
    """The server wants a key, or another one."""


class ServerBusyError(ServerError):
    """The server's queue is full: nothing was computed; ask again after retry_after_seconds (None: it did not say)."""

    def __init__(self, what: str, *, retry_after_seconds: float | None = None, where: object = None) -> None:
        self.retry_after_seconds = retry_after_seconds
        wait = "in a moment" if retry_after_seconds is None else f"in {retry_after_seconds:g} s"
        super().__init__(what, where=where, next_step=f"ask again {wait}")


class ReplicaLostError(LmcourseError, RuntimeError):
    """The replica of the model that was answering died, or none takes the request; asking again may help."""


class MachineError(LmcourseError, RuntimeError):
    """The machine or the installation lacks something; next_step is the command that mends it."""
