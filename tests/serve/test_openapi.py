"""Requests drawn from our own OpenAPI schema, right and wrong: no 5xx, no undocumented status, every body as said."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.serve.app import make_app
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def small_server():
    """Short sessions and a short queue, so that no drawn request is a long one."""
    config = TurbomindEngineConfig(session_len=40, max_batch_size=8, cache_max_entry_count=16)
    with (
        pipeline("tiny-chat", backend_config=config) as pipe,
        running(make_app(pipe, ServerSettings(max_queue=8))) as server,
    ):
        yield server
        with pipe.dispatcher._lock:
            pipe.engine.check()
        assert pipe.stats().num_free_blocks == pipe.stats().num_blocks


@pytest.fixture(scope="module")
def schema(small_server):
    return schemathesis.openapi.from_url(f"{small_server.url}/openapi.json")


OPERATIONS = [
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
    ("post", "/v1/encode"),
    ("post", "/v1/chat/interactive"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model}"),
    ("get", "/health"),
    ("get", "/metrics"),
    ("get", "/class"),
]


def check(schema, method, path, max_examples):
    """Half of the requests follow the schema, half break it."""
    operation = schema[path][method]
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @settings(max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case) -> None:
            case.call_and_validate(checks=CHECKS)

        if mode is GenerationMode.POSITIVE or operation.body:
            ask()


def test_every_operation_is_drawn(schema) -> None:
    found = {(method, path) for path in schema for method in schema[path]}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_drawn_requests_get_documented_answers(schema, method, path) -> None:
    check(schema, method, path, 12)


@pytest.mark.soak
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_many_drawn_requests_get_documented_answers(schema, method, path) -> None:
    check(schema, method, path, 400)
