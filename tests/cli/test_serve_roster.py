"""`serve roster`: what it writes is a roster, private and whole; nothing is replaced unasked."""

from __future__ import annotations

import csv
import io
import json
import stat

import pytest

from lmcourse.__main__ import main
from lmcourse.serve.class_roster import Quota, read_roster

NAMES = ["Ada Lovelace", "李雷", "Ben, Jr.", "Zoë"]


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\ufeff" + "\r\n".join([NAMES[0], "", f"  {NAMES[1]} ", NAMES[2], NAMES[3] + "\t"]), "utf-8")
    return path


def test_roster_and_list_hold_one_key_for_each_name(names, tmp_path, capsys) -> None:
    out, keys = tmp_path / "roster.json", tmp_path / "keys.csv"
    assert main(["serve", "roster", str(names), "--out", str(out), "--csv", str(keys), "--max-concurrent", "2"]) == 0
    roster = read_roster(out)
    assert [student.name for student in roster.students] == NAMES
    assert {student.quota for student in roster.students} == {Quota(max_concurrent=2)}
    rows = list(csv.DictReader(io.StringIO(keys.read_text("utf-8"))))
    assert {row["name"]: row["key"] for row in rows} == {student.name: student.key for student in roster.students}
    everything = {roster.instructor_key, *(student.key for student in roster.students)}
    assert len(everything) == 5
    assert all(key and len(key) >= 32 for key in everything)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (out, keys)] == [0o600, 0o600]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.csv", "names.txt", "roster.json"]
    shown = capsys.readouterr().out
    assert "4 students" in shown
    assert not any(key in shown for key in everything)


def test_existing_files_are_left_unless_forced(names, tmp_path, capsys) -> None:
    out, keys = tmp_path / "roster.json", tmp_path / "keys.csv"
    keys.write_text("mine")
    command = ["serve", "roster", str(names), "--out", str(out), "--csv", str(keys)]
    assert main(command) == 1
    assert "the file exists" in capsys.readouterr().err
    assert not out.exists()
    assert keys.read_text() == "mine"
    assert main([*command, "--force"]) == 0
    first = read_roster(out)
    assert main([*command, "--force"]) == 0
    assert not {student.key for student in first.students} & {student.key for student in read_roster(out).students}


def test_add_keeps_keys_quotas_and_settings(names, tmp_path, capsys, monkeypatch) -> None:
    out = tmp_path / "roster.json"
    before = {"students_see": "class", "quota": {"tokens_total": 9},
              "students": {"Ada Lovelace": {"key": "sk-old", "quota": {"max_concurrent": 1}}}}  # fmt: skip
    out.write_text(json.dumps(before))
    assert main(["serve", "roster", str(names), "--out", str(out), "--add"]) == 0
    assert "3 of them new" in capsys.readouterr().out
    roster = read_roster(out)
    assert roster.students_see_class
    assert [student.name for student in roster.students] == NAMES
    assert (roster.students[0].key, roster.students[0].quota) == ("sk-old", Quota(max_concurrent=1, tokens_total=9))
    monkeypatch.setattr("sys.stdin", io.StringIO("Late Comer\n"))
    assert main(["serve", "roster", "-", "--out", str(out), "--add"]) == 0
    assert read_roster(out).students[:4] == roster.students


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("", [], "no names"),
        ("Ada\nBen\nAda \n", [], "twice"),
        ("Ada\x07\n", [], "cannot be used"),
        ("A" * 81, [], "cannot be used"),
        ("Ada", ["--max-concurrent", "0"], "max_concurrent"),
        ("Ada", ["--add"], "cannot be read"),
        ("Ada", ["--out", "no/such/folder/roster.json"], "cannot be written"),
        ("Ada", ["--csv", "roster.json"], "two files have one name"),
    ],
)
def test_bad_input_is_one_error_and_writes_nothing(text, flags, message, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text(text, "utf-8")
    assert main(["serve", "roster", "names.txt", *flags]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["names.txt"]


def test_names_that_cannot_be_read(tmp_path, capsys) -> None:
    (tmp_path / "names.txt").write_bytes(b"Zo\xeb\n")
    for name in ("names.txt", "missing.txt"):
        assert main(["serve", "roster", str(tmp_path / name), "--out", str(tmp_path / "roster.json")]) == 1
        assert "names cannot be read" in capsys.readouterr().err
