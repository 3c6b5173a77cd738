"""What all tests share: no downloads, one thread a process, gpu tests only where there is CUDA."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # one that stands still for a while fails nothing


@pytest.fixture(autouse=True, scope="session")
def homework_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checks note progress; that of tests is nobody's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCOURSE_HOMEWORK", str(tmp_path_factory.mktemp("homework")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def stand_in() -> Iterator[Any]:
    """A server with OpenAI's shapes that is not ours, running: a stand_in_server.StandIn."""
    sys.path.append(str(Path(__file__).parent))
    from stand_in_server import running_stand_in

    with running_stand_in() as server:
        yield server
