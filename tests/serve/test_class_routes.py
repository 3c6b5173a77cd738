"""/class and /class/view on a running server: who may see what, and what is in it while answers are written."""

from __future__ import annotations

import threading
import time

import httpx
import pytest

from lmcourse.serve.app import make_app
from lmcourse.serve.class_roster import Quota, Student
from lmcourse.serve.running import running
from lmcourse.serve.schema import ClassAnswer
from lmcourse.serve.settings import ServerSettings

STUDENTS = tuple(Student(name, f"sk-{n}", Quota(max_concurrent=2)) for n, name in enumerate(("Ada", "</script><b>Ben")))


def _get(server, path, key):
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.get(server.url + path, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def taught(pipe):
    settings = ServerSettings(api_keys=("sk-op",), students=STUDENTS, instructor_key="sk-teacher", grace_seconds=1)
    with running(make_app(pipe, settings)) as server:
        yield server


@pytest.mark.parametrize(
    ("key", "status"), [("sk-teacher", 200), ("sk-op", 200), ("sk-0", 403), ("sk-x", 401), (None, 401)]
)
def test_class_is_for_the_instructor(taught, key, status):
    answer = _get(taught, "/class", key)
    assert answer.status_code == status
    if status == 200:
        ClassAnswer.model_validate(answer.json())
        assert answer.headers["cache-control"] == "no-store"
        assert "sk-" not in answer.text
    else:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_class_may_be_opened_to_students(pipe):
    with running(make_app(pipe, ServerSettings(students=STUDENTS, students_see_class=True))) as server:
        assert _get(server, "/class", "sk-0").status_code == 200
        assert _get(server, "/metrics", "sk-0").status_code == 403


@pytest.mark.parametrize("path", ["/class", "/class/view"])
def test_server_without_class_says_how_to_have_one(server, path):
    answer = _get(server, path, None)
    assert answer.status_code == 404
    assert "--class-roster" in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "no_class"


def test_class_shows_who_runs_what_and_no_words(taught, pipe):
    body = {"model": pipe.name, "prompt": "xylophone", "max_tokens": 400, "ignore_eos": True, "n": 2, "temperature": 1}
    keys = {"Authorization": "Bearer sk-0"}
    asking = threading.Thread(
        target=httpx.post, args=(f"{taught.url}/v1/completions",), kwargs={"json": body, "headers": keys, "timeout": 60}
    )
    asking.start()
    end, busy = time.monotonic() + 30, None
    while time.monotonic() < end and busy is None:
        answer = _get(taught, "/class", "sk-teacher")
        (ada,) = (row for row in answer.json()["students"] if row["name"] == "Ada")
        if ada["running"] == 2 and all(one["tokens"] for one in ada["answers"]):
            busy = answer.json()
            break
        time.sleep(0.05)
    refused = httpx.post(f"{taught.url}/v1/completions", json=body, headers=keys)
    asking.join()
    assert busy is not None, "never seen at work"
    assert refused.status_code == 429
    assert "xylophone" not in str(busy)
    assert ada["blocks"] >= 2
    assert busy["pool"]["used"] == ada["blocks"]
    assert [one["model"] for one in ada["answers"]] == [pipe.name] * 2
    time.sleep(1.1)  # until the second is over
    after = _get(taught, "/class", "sk-teacher").json()
    (ada,) = (row for row in after["students"] if row["name"] == "Ada")
    assert (ada["num_answers"], ada["running"], ada["blocks"], ada["refused"]) == (0, 0, 0, 1)
    assert ada["tokens_last_minute"] == 800
    assert ada["quotas"]["max_concurrent"] == {"limit": 2, "left": 2}


def test_page_is_open_and_holds_nothing_of_the_class(taught):
    page = _get(taught, "/class/view", None)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert not any(word in page.text for word in ("Ada", "Ben", "sk-"))
