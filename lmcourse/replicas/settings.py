"""ReplicaSettings: what an operator decides about replicas, as the command line says it. No Ray, no torch.

The same object goes to the process that answers HTTP, as JSON, so that both processes read one description.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from lmcourse.config import ChatTemplateConfig, TurbomindEngineConfig
from lmcourse.errors import ConfigError
from lmcourse.serve.class_roster import Quota, Student
from lmcourse.serve.settings import ServerSettings

__all__ = ["ROUTINGS", "FrontTask", "ReplicaSettings"]

ROUTINGS = ("auto", "prefix", "least-loaded")
_LEAST = (
    ("min_replicas", 1), ("max_replicas", 1), ("cpus_per_replica", 0), ("patience_seconds", 0), ("start_seconds", 1),
    ("idle_seconds", 0), ("stuck_seconds", 1),
)  # fmt: skip


@dataclass(frozen=True)
class ReplicaSettings:
    """How many replicas, where they find room, how requests are spread, and how long a request waits for one."""

    min_replicas: int = 2
    max_replicas: int = 2
    ray_address: str | None = None  # of a cluster that runs; none: one is started here, on loopback, and ends with us
    app_name: str = "lmcourse"  # under which Ray Serve knows the replicas
    routing: str = "auto"  # prefix: alike beginnings to one replica; auto: prefix where prefixes are cached
    cpus_per_replica: float = 1.0  # what Ray sets aside; an engine's threads follow it
    patience_seconds: float = 60.0  # how long a request waits for a replica that takes it
    start_seconds: float = 600.0  # how long the first replica may take to load
    grace_seconds: float = 30.0  # how long a replica that is replaced may finish what it runs
    idle_seconds: float = 300.0  # how long a replica beyond the fewest stays when the others would do
    stuck_seconds: float = 60.0  # an engine that has work and ends no step for so long is replaced
    resumes: bool = True  # an answer cut off is computed again elsewhere and goes on where it stopped

    def __post_init__(self) -> None:
        for name, least in _LEAST:
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} is too small", expected=f"{least} or more", got=getattr(self, name))
        if self.max_replicas < self.min_replicas:
            raise ConfigError(
                "max_replicas is below min_replicas", expected=f"{self.min_replicas} or more", got=self.max_replicas
            )
        if self.routing not in ROUTINGS:
            raise ConfigError("no such routing", expected=" | ".join(ROUTINGS), got=self.routing)


@dataclass(frozen=True)
class FrontTask:
    """All that the process which answers HTTP is told when it starts; it comes through a pipe, for it holds keys."""

    model: str | None
    ray_address: str
    listener_fd: int
    log_level: str = "error"
    tls: tuple[str, str] | None = None
    engine: TurbomindEngineConfig = field(default_factory=TurbomindEngineConfig)
    template: ChatTemplateConfig = field(default_factory=ChatTemplateConfig)
    server: ServerSettings = field(default_factory=ServerSettings)
    replicas: ReplicaSettings = field(default_factory=ReplicaSettings)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FrontTask:
        """The inverse of `to_json`."""
        parts = json.loads(text)
        server: dict[str, Any] = {key: _frozen(value) for key, value in parts["server"].items()}
        server["students"] = tuple(
            Student(entry["name"], entry["key"], Quota(**entry["quota"])) for entry in server["students"]
        )
        parts |= {
            "engine": TurbomindEngineConfig(**parts["engine"]),
            "template": ChatTemplateConfig(**parts["template"]),
            "server": ServerSettings(**server),
            "replicas": ReplicaSettings(**parts["replicas"]),
            "tls": _frozen(parts["tls"]),
        }
        return cls(**parts)


def _frozen(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value
