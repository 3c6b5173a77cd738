"""The deployment: engine replicas as Ray Serve runs them. Imported only where Ray is.

Ray Serve starts them where there is room, watches their health, starts others for those that die, keeps their number
between the limits by the load, and replaces them one by one when the description changes (a new generation).

Lesson: 5 (serving a class)
"""

from __future__ import annotations

from typing import Any

from ray import serve

from lmcourse.config import ChatTemplateConfig, TurbomindEngineConfig
from lmcourse.errors import MachineError
from lmcourse.replicas.board import Board
from lmcourse.replicas.engine_replica import Duty, EngineReplica
from lmcourse.replicas.ray_start import LOOPBACK
from lmcourse.replicas.settings import FrontTask

__all__ = ["ServedReplica", "board_name", "deploy", "make_board", "start_serve", "withdraw"]

_HEALTH_PERIOD_SECONDS, _HEALTH_TIMEOUT_SECONDS = 2, 5  # three that fail in a row: a replica is replaced
_NEED_SECONDS = 10.0  # of more answers under way than half a batch per replica: another one is started
_MOST_ONGOING = 100_000  # the front decides how many may wait


class ServedReplica(EngineReplica):
    """An EngineReplica that asks Ray where it is."""

    def __init__(
        self,
        model: str | None,
        engine: TurbomindEngineConfig,
        template: ChatTemplateConfig,
        duty: Duty,
        board: Any,
    ) -> None:
        import ray

        address = str(ray.util.get_node_ip_address())
        if address == LOOPBACK:
            _keep_to_loopback()
        name = serve.get_replica_context().replica_id.unique_id
        super().__init__(model, engine, template, duty, board, place=(name, address))

    def __del__(self) -> None:
        """Ray Serve calls it when nothing runs here any more."""
        if hasattr(self, "_leaving"):
            self.leave()


def _keep_to_loopback() -> None:
    """Ray Serve opens a port between replicas (behind the cluster's token) on all addresses, wherever Ray itself is."""
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, place: bind(server, place.replace("[::]", LOOPBACK))


def board_name(app_name: str) -> str:
    """Under which the board of an application is found."""
    return f"{app_name}-board"


def start_serve() -> None:
    """Ray Serve without a port of its own: HTTP is our front's."""
    serve.start(http_options={"location": "NoServer"})


def make_board(ray: Any, app_name: str) -> Any:
    """The board's actor, restarted if it dies; MachineError if the name is taken."""
    try:
        kind = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, name=board_name(app_name))(Board)
        return kind.remote()
    except ValueError as error:
        raise MachineError(
            f"this cluster already runs replicas named {app_name!r}", next_step="choose another --app-name"
        ) from error


def deploy(ray: Any, task: FrontTask, board: Any, generation: int) -> None:
    """Start the replicas, or replace them by those of another generation; returns when they are there."""
    settings = task.replicas
    num_gpus = task.engine.tp if ray.cluster_resources().get("GPU", 0) else 0
    scale: dict[str, Any] = {"num_replicas": settings.min_replicas}
    if settings.max_replicas > settings.min_replicas:
        limits = {"min_replicas": settings.min_replicas, "max_replicas": settings.max_replicas}
        wanted = max(1, task.engine.max_batch_size // 2)
        pace = {"look_back_period_s": _NEED_SECONDS, "upscale_delay_s": _NEED_SECONDS}
        pace |= {"metrics_interval_s": 1.0, "downscale_delay_s": settings.idle_seconds}
        scale = {"autoscaling_config": {**limits, "target_ongoing_requests": wanted, **pace}}
    deployment = serve.deployment(
        name="engine",
        ray_actor_options={"num_cpus": settings.cpus_per_replica, "num_gpus": num_gpus},
        max_ongoing_requests=_MOST_ONGOING,
        health_check_period_s=_HEALTH_PERIOD_SECONDS,
        health_check_timeout_s=_HEALTH_TIMEOUT_SECONDS,
        graceful_shutdown_timeout_s=settings.grace_seconds,
        graceful_shutdown_wait_loop_s=0.2,
        request_router_config={"request_router_class": "lmcourse.replicas.serve_router:PrefixRouter"},
        **scale,
    )(ServedReplica)
    application = deployment.bind(
        task.model, task.engine, task.template, Duty(generation, settings.stuck_seconds), board
    )
    serve.run(application, name=settings.app_name, route_prefix=None)


def withdraw(app_name: str, *, alone: bool) -> None:
    """End the replicas, and Ray Serve with them if nobody else uses it."""
    serve.delete(app_name)
    if alone:
        serve.shutdown()
