"""Ray, found or started, with the settings that this course insists on. The one place that decides them.

    --ray-address given    a cluster that somebody runs: we are a guest, and leave it as it was
    none                   one on this machine: loopback only, no dashboard, a folder of its own, gone when we go

Ray's usage statistics are off either way; ports are whatever is free.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmcourse.errors import MachineError

__all__ = ["LOOPBACK", "connect_to_ray", "running_ray"]

LOOPBACK = "127.0.0.1"
_NAMESPACE = "lmcourse"
_START_TRIES = 4
_OBJECT_STORE_BYTES = 100 * 2**20  # pieces of answers are small and never stored
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # who hangs does not hear a request to leave
    "RAY_enable_metrics_collection": "0",
}
_ON_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch for "this machine only", on Linux too
    "RAY_AUTH_MODE": "token",  # others on this machine stay out: the token lies in your home, ~/.ray/auth_token
}
_YOURS = ("RAY_AUTH_MODE",)  # what you have set yourself stays


def _import_ray(environment: dict[str, str]) -> Any:
    """Ray reads its environment when it is imported."""
    os.environ.update(
        {name: value for name, value in environment.items() if name not in _YOURS or name not in os.environ}
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            from ray import serve
    except ModuleNotFoundError as error:
        raise MachineError(
            f"replicas need {error.name}", expected="the extra `ray`", got="lmcourse without it",
            next_step='python -m pip install "lmcourse[serve,ray]"',
        ) from error  # fmt: skip
    for name in ("ray", serve.__name__):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


@contextmanager
def connect_to_ray(address: str) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at HOST:PORT."""
    local = _ON_LOOPBACK if address.startswith(f"{LOOPBACK}:") else {}
    ray = _import_ray({**_ENVIRONMENT, **local})
    try:
        ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MachineError(
            f"no Ray cluster at {address}", got=str(error).splitlines()[0], expected="HOST:PORT of its head node",
            next_step="`ray status` on a machine of the cluster shows it",
        ) from error  # fmt: skip
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def running_ray(address: str | None, num_cpus: float) -> Iterator[tuple[Any, str]]:
    """Ray and its address: the one given, or of a cluster that lives as long as the block."""
    if address is not None:
        with connect_to_ray(address) as ray:
            yield ray, address
        return
    ray = _import_ray({**_ENVIRONMENT, **_ON_LOOPBACK})
    folder = Path(tempfile.mkdtemp(prefix="lmr-"))  # short: paths of Unix sockets end at 107 characters
    try:
        yield ray, _start_here(ray, folder, num_cpus)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start_here(ray: Any, folder: Path, num_cpus: float) -> str:
    """Ray on this machine, for us alone; its address. Ray gives its own parts 30 s, too few on a busy machine."""
    for left in reversed(range(_START_TRIES)):
        try:
            context = ray.init(
                namespace=_NAMESPACE,
                include_dashboard=False,
                num_cpus=max(os.cpu_count() or 1, math.ceil(num_cpus)),
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
                _node_ip_address=LOOPBACK,
            )
            return str(context.address_info["gcs_address"])
        except Exception as error:
            ray.shutdown()
            if not left:
                raise MachineError(
                    "Ray does not start", got=str(error).splitlines()[0], next_step="try again on a machine less busy"
                ) from error
    raise AssertionError("unreachable")
