"""find_model: every way in which a name leads to a folder or to an error that says why not."""

import errno
import shutil
import socket
from pathlib import Path

import pytest

from lmcourse.bundled import model_path
from lmcourse.errors import CheckpointError, ModelNotFoundError, StorageError
from lmcourse.text import download, hub
from lmcourse.text.hub import course_model, find_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3778037832\n"


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0" * 16)
    return folder


@pytest.fixture
def no_hubs(monkeypatch):
    """Fails the test if a hub is asked."""

    def fetch(self, *arguments):
        raise AssertionError(f"{self.name} was asked")

    monkeypatch.setattr(download.Hub, "fetch", fetch)


@pytest.fixture
def fake_hubs(monkeypatch):
    """Two hubs without a network: each answers with a function's result, and calls are kept."""
    calls = []

    def install(*answers, reachable: bool = True):
        def make(name, answer):
            def snapshot(model_name, revision, cache, cache_only):
                calls.append((name, model_name, revision, cache, cache_only))
                result = answer()
                if isinstance(result, Exception):
                    raise result
                return str(result)

            return download.Hub(name, lambda: "here", snapshot)

        monkeypatch.setattr(hub, "HUBS", tuple(make(f"hub{i}", answer) for i, answer in enumerate(answers)))
        monkeypatch.setattr(download, "reach", lambda url: None if reachable else f"{url} is out of reach")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        return calls

    return install


def test_local_folder_is_found_by_path_home_and_link(model, tmp_path, monkeypatch, no_hubs):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(model, target_is_directory=True)
    assert find_model(str(model)) == find_model(model) == model
    assert find_model("~/model") == model
    assert find_model("~/link") == tmp_path / "link"


def test_local_folder_comes_before_a_bundled_name(model, tmp_path, monkeypatch, no_hubs):
    assert find_model("tiny-chat") == model_path("tiny-chat")
    shutil.copytree(model, tmp_path / "tiny-chat")
    monkeypatch.chdir(tmp_path)
    assert find_model("tiny-chat") == Path("tiny-chat")


def test_unknown_plain_name_suggests_and_asks_no_hub(tmp_path, monkeypatch, no_hubs):
    (tmp_path / "internlm2-chat-1.8b").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="did you mean 'tiny-chat'"):
        find_model("tinychat")
    with pytest.raises(ModelNotFoundError, match=r"there is 'internlm2-chat-1.8b'") as caught:
        find_model("~/internlm2-chat-1_8b")
    assert "ln -s ~/share/new_models/Shanghai_AI_Laboratory/internlm2-chat-1_8b ~/" in str(caught.value)
    assert all(f"{i}. " in str(caught.value.where) for i in (1, 2, 3, 4))


@pytest.mark.parametrize("name", ["", "  ", "a" * 5000, "a\0b", "~no_such_user_here/x", None, 5, b"bytes"])
def test_odd_names_are_named_errors(name, no_hubs):
    with pytest.raises(ModelNotFoundError):
        find_model(name)


def test_dummy_names_are_not_looked_up(no_hubs):
    folder = find_model("dummy:llama2-7b")
    assert {"config.json", "random_weights.json"} <= {path.name for path in folder.iterdir()}
    with pytest.raises(ModelNotFoundError, match="dummy:internlm2-1_8b"):
        find_model("dummy:gpt-2")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is empty"),
        ({"model.safetensors": "x"}, "no config.json"),
        ({"config.json": "{}", "model-00001-of-00002.safetensors": POINTER}, "git lfs pull"),
        ({"config.json": "{}", "pytorch_model.bin": POINTER}, "git lfs pull"),
        ({"config.json": POINTER}, "git lfs pull"),
    ],
)
def test_unusable_folder_has_its_own_message(tmp_path, files, message, no_hubs):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_model(tmp_path)
    assert caught.value.where == tmp_path
    assert caught.value.next_step


def test_folder_of_folders_names_the_inner_one(model, no_hubs):
    with pytest.raises(CheckpointError, match=f"give {model}"):
        find_model(model.parent)


@pytest.mark.parametrize("complete", [True, False])
def test_adapter_of_a_fine_tuning_run_is_refused_with_the_way_to_merge_it(model, no_hubs, complete):
    (model / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
    if not complete:
        (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match="LoRA adapter") as caught:
        find_model(model)
    assert "org/base" in str(caught.value.got)
    assert "merge_and_unload" in str(caught.value.next_step)
    assert ("move adapter_config.json away" in str(caught.value.next_step)) is complete


def test_file_and_dangling_link_are_told_apart(model, tmp_path, no_hubs):
    with pytest.raises(CheckpointError, match="is a file"):
        find_model(model / "config.json")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError, match="leads nowhere"):
        find_model(tmp_path / "gone")


def test_hubs_are_asked_in_order_and_the_first_answer_wins(model, tmp_path, fake_hubs):
    calls = fake_hubs(lambda: RuntimeError("404 no such repository"), lambda: model)
    assert find_model("org/name", revision="v1", download_dir=tmp_path / "cache") == model
    assert [call[0] for call in calls] == ["hub0", "hub1"]
    assert calls[0][1:] == ("org/name", "v1", tmp_path / "cache", False)


def test_hub_failures_are_all_listed(tmp_path, fake_hubs):
    only_pickles = tmp_path / "pickles"
    only_pickles.mkdir()
    fake_hubs(lambda: RuntimeError("404 no such repository\ndetails"), lambda: only_pickles)
    with pytest.raises(ModelNotFoundError) as caught:
        find_model("org/name")
    assert "3. hub0: RuntimeError: 404 no such repository\n" in str(caught.value)
    assert "4. hub1: it has the model, but no weights in safetensors" in str(caught.value)


def test_unreachable_or_offline_hub_gives_only_its_cache(model, fake_hubs, monkeypatch):
    calls = fake_hubs(lambda: model, reachable=False)
    assert find_model("org/name") == model
    assert calls[0][-1] is True
    calls = fake_hubs(lambda: RuntimeError("not cached"), reachable=False)
    with pytest.raises(ModelNotFoundError, match="here is out of reach, and its cache has no such model"):
        find_model("org/name")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        find_model("org/name")
    assert calls[-1][-1] is True


def test_download_not_allowed_asks_no_hub(no_hubs):
    with pytest.raises(ModelNotFoundError, match="downloading was not allowed"):
        find_model("org/name", download=False)


def test_full_disk_is_a_storage_error(fake_hubs):
    fake_hubs(lambda: OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StorageError, match="resumes"):
        find_model("org/name")


def test_missing_library_is_named(fake_hubs):
    fake_hubs(lambda: ImportError("no", name="modelscope"))
    with pytest.raises(ModelNotFoundError, match="pip install modelscope"):
        find_model("org/name")


def test_libraries_are_asked_for_safe_files_only(model, monkeypatch):
    """Stand-ins for both libraries: what reaches them is the contract."""
    import sys
    import types

    asked = {}

    def library(name):
        def snapshot_download(model_name, **settings):
            asked[name] = (model_name, settings)
            return str(model)

        return types.SimpleNamespace(snapshot_download=snapshot_download)

    for name in ("modelscope", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, library(name))
    for source in download.HUBS:
        assert source.snapshot("org/name", None, None, False) == str(model)
    for name, settings in asked.values():
        assert name == "org/name"
        assert not {"*", "*.bin", "*.py", "*.pt"} & set(settings["allow_patterns"])


def test_reach_gives_up_on_a_server_that_never_answers():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert download.reach(url, limit_seconds=0.2) is not None
    assert "out of reach" in (download.reach(url) or "")


def test_course_model_follows_the_environment(monkeypatch):
    monkeypatch.delenv("LMCOURSE_MODEL", raising=False)
    assert course_model() == "tiny-chat"
    monkeypatch.setenv("LMCOURSE_MODEL", " ~/internlm2-chat-1_8b ")
    assert course_model() == "~/internlm2-chat-1_8b"
