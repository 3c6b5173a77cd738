"""A server with a roster shares its work: a dozen students over HTTP, a tenth of tests/soak/test_class.py."""

from __future__ import annotations

import asyncio

from class_of_students import FLOOD, SELDOM, Busy, check_shares, make_busy, watch_class

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.serve.app import make_app
from lmcourse.serve.class_roster import Quota, Student
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings


def test_a_dozen_students_get_equal_shares_beside_a_flood(rng):
    keys = {name: f"sk-{name}" for name in (*(f"student {i}" for i in range(9)), FLOOD, SELDOM)}
    settings = ServerSettings(students=tuple(Student(name, key, Quota()) for name, key in keys.items()))
    config = TurbomindEngineConfig(session_len=256, cache_max_entry_count=256)
    busy, seldom = make_busy(keys, rng, longest=16), Busy(SELDOM, keys[SELDOM], 8, 4)
    with pipeline("tiny-chat", backend_config=config) as pipe, running(make_app(pipe, settings)) as server:
        report = asyncio.run(watch_class(server.url, busy, seldom, 200, rng.randrange(2**32), times=3))
        check_shares(report)
        pipe.engine.check()
