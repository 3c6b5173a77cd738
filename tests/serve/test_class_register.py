"""Which key opens what."""

from __future__ import annotations

import httpx

from lmcourse.serve.app import make_app
from lmcourse.serve.class_quotas import Account, NoAccount
from lmcourse.serve.class_register import Register
from lmcourse.serve.class_roster import Quota, Student
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings

ADA = Student("Ada", "sk-ada", Quota())


def test_register_finds_whose_key_it_is():
    register = Register(ServerSettings(api_keys=("sk-1",), students=(ADA,), instructor_key="sk-0"))
    found = [register.find(key) for key in (b"sk-0", b"sk-1", b"sk-ada", b"sk-ad", b"")]
    assert [type(account) for account in found] == [NoAccount, NoAccount, Account, type(None), type(None)]
    assert found[2] is register.students[0]
    assert not Register(ServerSettings()).wants_key


def test_register_keeps_students_out_of_what_is_the_instructors():
    shut, opened = (Register(ServerSettings(students=(ADA,), students_see_class=seen)) for seen in (False, True))
    (ada,) = shut.students
    assert [shut.may_open(ada, path) for path in ("/metrics", "/class", "/v1/models")] == [False, False, True]
    assert [opened.may_open(ada, path) for path in ("/metrics", "/class")] == [False, True]
    assert shut.may_open(NoAccount(), "/metrics")


def test_students_do_not_read_the_metrics(pipe):
    settings = ServerSettings(students=(ADA,), instructor_key="sk-0")
    with running(make_app(pipe, settings)) as server:
        answers = {
            key: httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {key}"})
            for key in ("sk-0", "sk-ada", "sk-nobody")
        }
        assert {key: answer.status_code for key, answer in answers.items()} == {
            "sk-0": 200, "sk-ada": 403, "sk-nobody": 401,
        }  # fmt: skip
        error = answers["sk-ada"].json()["error"]
        assert (error["type"], error["code"]) == ("permission_error", "forbidden")
        asked = httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer sk-ada"})
        assert asked.status_code == 200
