"""Rosters that instructors write, and what is wrong with some."""

from __future__ import annotations

import json

import pytest

from lmcourse.errors import ConfigError
from lmcourse.serve.class_roster import Quota, Roster, Student, read_roster


def test_read_roster_lets_own_quota_replace_name_by_name(tmp_path):
    path = tmp_path / "roster.json"
    ben = {"key": "sk-2", "quota": {"max_concurrent": 4, "tokens_per_hour": None}}
    shared = {"max_concurrent": 2, "tokens_per_hour": 9}
    path.write_text(json.dumps({"quota": shared, "students": {"Ada": {"key": "sk-1"}, "Ben": ben}}))
    roster = read_roster(path)
    ada, ben = roster.students
    assert ada == Student("Ada", "sk-1", Quota(max_concurrent=2, tokens_per_hour=9))
    assert ben.quota == Quota(max_concurrent=4)
    assert (roster.instructor_key, roster.students_see_class) == (None, False)


def test_read_roster_with_instructor_and_open_view(tmp_path):
    path = tmp_path / "roster.json"
    path.write_text('{"instructor": {"key": "k0"}, "students_see": "class", "students": {"Ada": {"key": "k1"}}}')
    assert read_roster(path) == Roster((Student("Ada", "k1", Quota()),), "k0", students_see_class=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "must be an object"),
        ("{}", "names no students"),
        ('{"students": {"Ada": {}}}', "no usable key"),
        ('{"students": {"Ada": {"key": "k\u00e9"}}}', "no usable key"),
        ('{"students": {"Ada": {"key": "secret"}, "Ben": {"key": "secret"}}}', "same key"),
        ('{"students": {"Ada": {"key": "secret"}}, "instructor": {"key": "secret"}}', "instructor's key"),
        ('{"students": {"Ada": {"key": "k"}}, "instructor": {}}', "instructor has no usable key"),
        ('{"students": {"Ada": {"key": "k"}}, "instructor": "secret"}', "must be an object"),
        ('{"students": {"Ada": {"key": "k"}}, "students_see": true}', "students_see"),
        ('{"students": {"Ada": {"key": "k"}}, "quota": {"tokens": 1}}', "unknown name"),
        ('{"students": {"Ada": {"key": "k"}}, "quota": {"tokens_total": 0}}', "no limit"),
        ('{"students": {"Ada": {"key": "k"}}, "quota": {"tokens_total": true}}', "no limit"),
    ],
)
def test_read_roster_says_what_is_wrong_and_shows_no_key(tmp_path, text, told):
    path = tmp_path / "roster.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=told) as caught:
        read_roster(path)
    assert "roster.json" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_read_roster_without_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_roster(tmp_path / "none.json")
