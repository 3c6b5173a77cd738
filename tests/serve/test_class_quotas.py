"""Accounts with a clock of our own, and a server whose students have quotas."""

from __future__ import annotations

import httpx
import pytest

from lmcourse.serve.app import make_app
from lmcourse.serve.class_quotas import Account
from lmcourse.serve.class_roster import Quota, Student
from lmcourse.serve.errors import QuotaSpentError
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings


class _Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def _account(clock=None, **quota):
    return Account(Student("Ada", "sk-1", Quota(**quota)), clock or _Clock())


@pytest.mark.parametrize(("name", "seconds"), [("tokens_per_minute", 60), ("tokens_per_hour", 3600)])
def test_account_is_free_again_when_it_said(rng, name, seconds):
    clock = _Clock()
    account = _account(clock, **{name: 50})
    for _ in range(rng.randrange(50, 90)):
        account.charge(1)
        clock.now += rng.random() * 0.5
    with pytest.raises(QuotaSpentError, match=name) as caught:
        account.open(1)
    wait = caught.value.retry_after_seconds
    assert 0 < wait <= seconds + 1
    clock.now += wait - 0.01
    with pytest.raises(QuotaSpentError):
        account.open(1)
    clock.now += 0.02
    account.open(1)


def test_account_total_never_frees():
    account = _account(tokens_total=5)
    account.charge(5)
    with pytest.raises(QuotaSpentError, match="tokens_total") as caught:
        account.open(1)
    assert caught.value.retry_after_seconds is None


def test_account_counts_open_answers():
    account = _account(max_concurrent=2)
    works = account.open(2)
    with pytest.raises(QuotaSpentError, match="max_concurrent"):
        account.open(1)
    account.close(works[:1])
    account.open(1)
    assert account.num_open == 2
    assert account.num_refused == 1
    with pytest.raises(QuotaSpentError, match="fewer"):
        account.open(3)


def test_account_says_what_is_left_of_each_quota(rng):
    clock = _Clock()
    account = _account(clock, max_concurrent=3, tokens_per_minute=50, tokens_per_hour=1000)
    assert account.count_left() == {
        "max_concurrent": (3, 3), "tokens_per_minute": (50, 50), "tokens_per_hour": (1000, 1000),
    }  # fmt: skip
    (work,) = account.open(1)
    account.charge(30)
    spent = rng.randrange(21, 90)
    account.write(work, spent)
    assert work.num_tokens == account.written.total == spent
    assert account.count_left() == {
        "max_concurrent": (3, 2), "tokens_per_minute": (50, 0), "tokens_per_hour": (1000, 970 - spent),
    }  # fmt: skip
    clock.now += 62
    assert account.count_left()["tokens_per_minute"] == (50, 50)
    assert account.count_left()["tokens_per_hour"] == (1000, 970 - spent)
    clock.now += 3600
    assert account.count_left()["tokens_per_hour"] == (1000, 1000)


def test_account_without_limits_forgets_what_is_older_than_an_hour():
    clock = _Clock()
    account = _account(clock)
    for _ in range(5000):
        account.charge(1)
        clock.now += 1.0
    assert len(account._charges) <= 3601
    assert account.num_tokens == 5000


def test_server_refuses_one_student_and_serves_the_other(pipe):
    students = (
        Student("Ada", "sk-ada", Quota(tokens_total=30)),
        Student("Ben", "sk-ben", Quota(max_concurrent=1)),
    )
    settings = ServerSettings(api_keys=("sk-teacher",), students=students, grace_seconds=2)
    with running(make_app(pipe, settings)) as server, httpx.Client(base_url=server.url, timeout=60) as http:

        def ask(key, **more):
            body = {"model": pipe.name, "prompt": "One two three", "max_tokens": 30, "ignore_eos": True, **more}
            return http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"})

        assert ask("sk-nobody").status_code == 401
        assert ask("sk-ada").status_code == 200
        refused = ask("sk-ada")
        assert refused.status_code == 429
        assert "retry-after" not in refused.headers
        assert refused.json()["error"]["code"] == "insufficient_quota"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert "tokens_total" in refused.json()["error"]["message"]
        for _ in range(3):  # each gives its place back, a stream too
            assert ask("sk-ben").status_code == 200
            assert ask("sk-ben", stream=True).status_code == 200
        assert ask("sk-ben", prompt=["a", "b"]).json()["error"]["code"] == "insufficient_quota"
        assert ask("sk-ben", max_tokens=-1).status_code == 400
        assert ask("sk-ben").status_code == 200
        assert ask("sk-teacher", n=2, temperature=1.0).status_code == 200


def test_server_gives_the_place_back_when_the_reader_leaves(pipe):
    ben = Student("Ben", "sk-ben", Quota(max_concurrent=1))
    with running(make_app(pipe, ServerSettings(students=(ben,), grace_seconds=2))) as server:
        headers = {"Authorization": "Bearer sk-ben"}
        with httpx.Client(base_url=server.url, timeout=60, headers=headers) as http:
            body = {"model": pipe.name, "prompt": "One", "max_tokens": 900, "ignore_eos": True, "stream": True}
            with http.stream("POST", "/v1/completions", json=body) as answer:
                lines = answer.iter_lines()  # kept: httpx hangs up when it goes
                next(lines)
                refused = http.post("/v1/completions", json=body)
                assert refused.status_code == 429
                assert refused.headers["retry-after"] == "1"
                assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            short = {**body, "max_tokens": 2, "stream": False}
            for _ in range(200):
                if http.post("/v1/completions", json=short).status_code == 200:
                    return
            pytest.fail("the place was never given back")


def test_server_keeps_conversations_of_one_number_apart(pipe):
    students = tuple(Student(name, f"sk-{name}", Quota()) for name in ("Ada", "Ben"))
    body = {"session_id": 7, "interactive_mode": True, "request_output_len": 4}
    with running(make_app(pipe, ServerSettings(students=students))) as server, httpx.Client(base_url=server.url) as web:

        def ask(student, prompt):
            key = {"Authorization": f"Bearer {student.key}"}
            answer = web.post("/v1/chat/interactive", json={**body, "prompt": prompt}, headers=key)
            return answer.json()["history_tokens"]

        ada, ben = students
        assert ask(ada, "My secret is 7310.") == 0
        assert ask(ben, "What is my secret?") == 0
        assert ask(ada, "What is my secret?") > 0
        assert ask(ben, "And now?") > 0


def test_server_tells_the_engine_whose_request_it_is(pipe):
    ben = Student("Ben", "sk-ben", Quota())
    settings = ServerSettings(api_keys=("sk-teacher",), students=(ben,), grace_seconds=2)
    body = {"model": pipe.name, "prompt": "One", "max_tokens": 900, "ignore_eos": True, "stream": True}
    with running(make_app(pipe, settings)) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        for key, account in (("sk-ben", "Ben"), ("sk-teacher", None)):
            with http.stream("POST", "/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}) as told:
                lines = told.iter_lines()  # kept: httpx hangs up when it goes
                next(lines)
                assert account in server.service.engine.loads()
