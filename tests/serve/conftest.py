"""A server on a free port for the tests of this folder, and clients for it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import httpx
import openai
import pytest

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.serve.app import make_app
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def rng() -> random.Random:
    """A generator whose fresh seed is shown when the test fails."""
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    return random.Random(seed)


@pytest.fixture(scope="session")
def pipe():
    """The bundled model; what the server says is compared with what it says."""
    config = TurbomindEngineConfig(session_len=1024, max_batch_size=16, cache_max_entry_count=400)
    with pipeline("tiny-chat", backend_config=config) as made:
        yield made


@pytest.fixture(scope="session")
def server(pipe):
    with running(make_app(pipe, ServerSettings(grace_seconds=2))) as made:
        yield made


@pytest.fixture(scope="session")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="session")
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as made:
        yield made
