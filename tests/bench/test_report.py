"""Results: the machine they name, and files written whole or not at all."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest
import torch

from lmcourse.bench import check_writable, current_commit, describe_machine, write_json
from lmcourse.errors import StorageError


def test_describe_machine_names_what_a_reader_needs():
    machine = describe_machine()
    assert machine["threads"] == torch.get_num_threads()
    assert machine["torch"].startswith(torch.__version__.split("+")[0])
    assert machine["cpu"]
    json.dumps(machine)


def test_current_commit_is_what_is_stated_or_the_checkouts(monkeypatch):
    monkeypatch.setenv("LMCOURSE_COMMIT", "abc1234")
    assert current_commit() == "abc1234"
    monkeypatch.delenv("LMCOURSE_COMMIT")
    assert re.fullmatch(r"[0-9a-f]{7,}\+?", current_commit() or "0000000")


def test_write_json_makes_folders_and_keeps_chinese_readable(tmp_path):
    write_json(tmp_path / "a/b.json", {"model": "小模型"})
    assert "小模型" in (tmp_path / "a/b.json").read_text("utf-8")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


def test_check_writable_tells_before_the_measurement(tmp_path):
    check_writable(tmp_path / "new/result.json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file/result.json"):
        with pytest.raises(StorageError, match="cannot be written"):
            check_writable(path)


def test_write_json_on_a_read_only_disk_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("write_text", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(StorageError, match="Read-only"):
        write_json(tmp_path / "result.json", {})


def test_write_json_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        write_json(tmp_path / "taken", {})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
