"""The course's model and the lesson's link, in a home folder of the test's own."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from lmcourse.bundled import dummy_path, model_path
from lmcourse.doctor import link_model
from lmcourse.doctor.course import check_lesson_link, check_model, find_real_models, fits, probe_model
from lmcourse.errors import ModelNotFoundError, StorageError

GIB = 1024**3
NAME = "internlm2-chat-1_8b"


def make_model(folder: Path, weight_bytes: int = 1000, shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    names = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    for name in names if shards > 1 else ["model.safetensors"]:
        with (folder / name).open("wb") as file:
            file.truncate(weight_bytes)
    if shards > 1:
        index = {"weight_map": {f"tensor{i}": name for i, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_probe_model_adds_up_its_shards(tmp_path):
    assert probe_model(make_model(tmp_path / "m", 500, shards=3)).weight_bytes == 1500


def test_probe_model_names_the_missing_shard(tmp_path):
    folder = make_model(tmp_path / "m", 500, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002" in probe_model(folder).problem


@pytest.mark.parametrize("text", ["no json", "{}", '{"weight_map": []}'])
def test_probe_model_with_a_broken_index(tmp_path, text):
    folder = make_model(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(text)
    assert probe_model(folder).weight_bytes is None


def test_fits_counts_float32_on_the_cpu():
    assert fits(int(3.5 * GIB), 8 * GIB, has_gpu=True)
    assert not fits(int(3.8 * GIB), 8 * GIB, has_gpu=False)


def test_link_model_makes_replaces_and_repairs_the_link(tmp_path):
    link = tmp_path / NAME
    assert link_model(tmp_path) == model_path("tiny-chat").resolve()
    assert link.resolve() == model_path("tiny-chat").resolve()
    other = make_model(tmp_path / "other")
    link_model(tmp_path, other)
    assert link.resolve() == other.resolve()
    link.unlink()
    link.symlink_to(tmp_path / "gone")
    assert check_lesson_link(tmp_path, [], None, has_gpu=False).status == "fix"
    link_model(tmp_path)
    assert check_lesson_link(tmp_path, [], None, has_gpu=False).status == "ok"
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "other"]


def test_link_model_leaves_a_real_folder_alone(tmp_path):
    real = make_model(tmp_path / NAME)
    assert link_model(tmp_path, make_model(tmp_path / "other")) == real
    assert not real.is_symlink()
    assert "folder of its own" in check_lesson_link(tmp_path, [], None, has_gpu=False).found


def test_link_model_on_a_read_only_disk_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("symlink_to", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(StorageError, match="the link could not be made"):
        link_model(tmp_path)


def test_link_model_to_something_incomplete_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        link_model(tmp_path, tmp_path / "empty")
    assert not (tmp_path / NAME).exists()


def test_check_lesson_link_that_is_missing_says_the_command(tmp_path):
    row = check_lesson_link(tmp_path, [], None, has_gpu=False)
    assert (row.status, row.fix) == ("fix", "lmcourse doctor --link-model")


def test_check_lesson_link_offers_the_real_model_when_it_fits(tmp_path):
    make_model(tmp_path / "share/new_models/Shanghai_AI_Laboratory" / NAME, int(3.5 * GIB))
    link_model(tmp_path)
    real = find_real_models(tmp_path)
    assert len(real) == 1
    assert "share" in check_lesson_link(tmp_path, real, 16 * GIB, has_gpu=False).fix
    assert check_lesson_link(tmp_path, real, 4 * GIB, has_gpu=False).fix is None


def test_find_real_models_in_the_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    make_model(tmp_path / "hf/hub/models--internlm--internlm2-chat-1_8b/snapshots/abc")
    assert [facts.folder.name for facts in find_real_models(tmp_path)] == ["abc"]


def test_check_lesson_link_to_a_model_too_large_for_the_memory(tmp_path):
    make_model(tmp_path / NAME, 4 * GIB)
    assert check_lesson_link(tmp_path, [], 6 * GIB, has_gpu=False).status == "warn"
    assert check_lesson_link(tmp_path, [], 6 * GIB, has_gpu=True).status == "ok"


def test_check_model_without_variable_is_the_bundled_one():
    row = check_model({}, None, has_gpu=False)
    assert (row.status, "tiny-chat" in row.found) == ("ok", True)


def test_check_model_too_large_for_the_memory(tmp_path):
    folder = make_model(tmp_path / "m", 4 * GIB)
    row = check_model({"LMCOURSE_MODEL": str(folder)}, 6 * GIB, has_gpu=False)
    assert row.status == "fix"
    assert row.fix == "export LMCOURSE_MODEL=tiny-chat"
    assert check_model({"LMCOURSE_MODEL": str(folder)}, 6 * GIB, has_gpu=True).status == "ok"


@pytest.mark.parametrize(("asked", "status"), [("tiny-chat", "ok"), ("/no/such/folder", "fix")])
def test_check_model_by_variable(asked, status):
    row = check_model({"LMCOURSE_MODEL": asked}, None, has_gpu=False)
    assert row.status == status
    assert asked in row.found


def test_probe_model_counts_weights_that_are_drawn():
    facts = probe_model(dummy_path("dummy:internlm2-1_8b"))
    assert (facts.weight_bytes, facts.problem) == (2 * 1_889_110_016, None)
