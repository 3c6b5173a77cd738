"""pipeline() asks the class's server where one is named and no GPU is here, with the interface of an engine's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmcourse import Pipeline, TurbomindEngineConfig, model_path, pipeline
from lmcourse.config import ChatTemplateConfig
from lmcourse.errors import ConfigError, KeyRefusedError, ServerError
from lmcourse.pipeline import RemotePipeline, class_server
from lmcourse.serve.background import serve_in_background
from lmcourse.serve.settings import ServerSettings

SMALL = TurbomindEngineConfig(cache_max_entry_count=64)
PROMPTS = ["hello", "上海是", "What is 12 * 12?"]
KEYS = ServerSettings(api_keys=("open-sesame",))


@pytest.fixture(scope="module")
def server():
    with serve_in_background("tiny-chat", SMALL, name="the class's server") as running:
        yield running


@pytest.fixture
def class_room(server, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LMCOURSE_SERVER", server.url)
    return server


def test_answers_are_those_of_an_engine_here(class_room, capsys) -> None:
    with pipeline("tiny-chat") as there, pipeline("tiny-chat", backend_config=SMALL) as here:
        assert isinstance(there, RemotePipeline)
        assert isinstance(here, Pipeline)
        assert f"{class_room.url} answers with tiny-chat\n" in capsys.readouterr().out
        assert there.name == here.name == "tiny-chat"
        far, near = there(PROMPTS), here(PROMPTS)
        for answer, reference in zip(far, near, strict=True):
            assert (answer.text, answer.token_ids, answer.finish_reason) == (
                reference.text, reference.token_ids, reference.finish_reason,
            )  # fmt: skip
            assert answer.input_token_len == reference.input_token_len
            assert answer.generate_token_len == reference.generate_token_len
        assert there("hello", max_new_tokens=3).text == here("hello", max_new_tokens=3).text
        streamed = "".join(piece.text for piece in there.stream_infer("hello"))
        assert streamed == near[0].text
        sessions = [pipe.chat("What is my name?", pipe.chat("My name is Ada.")) for pipe in (there, here)]
        assert sessions[0].response.text == sessions[1].response.text
    assert repr(there) == "RemotePipeline(closed)"


def test_the_servers_only_model_answers_for_any_name(class_room, capsys) -> None:
    for asked in (None, "~/internlm2-chat-1_8b", "internlm/internlm2-chat-1_8b"):
        with pipeline(asked) as pipe:
            assert pipe.model == "tiny-chat"
        assert (asked is None) == ("asked for" not in capsys.readouterr().out)


@pytest.mark.parametrize(
    "settings",
    [
        {"backend_config": SMALL},
        {"chat_template_config": ChatTemplateConfig(model_name="internlm2")},
        {"model_name": "internlm2"},
        {"model_path": model_path("tiny-chat")},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_a_server_cannot_give_makes_an_engine_here(class_room, settings) -> None:
    with pipeline(**{"model_path": "tiny-chat", **settings}) as pipe:
        assert isinstance(pipe, Pipeline)


def test_a_gpu_of_ones_own_goes_before_the_server(class_room, monkeypatch) -> None:
    assert class_server() == class_room.url
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert class_server() is None
    monkeypatch.setenv("LMCOURSE_SERVER", "  ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert class_server() is None


def test_what_only_an_engine_has_says_where_it_is(class_room) -> None:
    with pipeline() as pipe:
        for use in (lambda: pipe.stats(), lambda: pipe.engine, lambda: pipe.tokenizer):
            with pytest.raises(ConfigError, match="the class's server computes") as refused:
                use()
            assert f"{class_room.url}/metrics" in str(refused.value)


def test_unknown_keywords_are_refused_as_ever(class_room) -> None:
    with pytest.raises(ConfigError, match="no setting 'cache_max_entry_count'"):
        pipeline("tiny-chat", cache_max_entry_count=0.2)


def test_a_key_comes_from_the_environment(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with serve_in_background("tiny-chat", SMALL, settings=KEYS, name="guarded class") as guarded:
        monkeypatch.setenv("LMCOURSE_SERVER", guarded.url)
        with pytest.raises(KeyRefusedError, match="LMCOURSE_SERVER_KEY"):
            pipeline()
        monkeypatch.setenv("LMCOURSE_SERVER_KEY", "open-sesame")
        with pipeline() as pipe:
            assert pipe("hello", max_new_tokens=2).generate_token_len == 2


def test_a_dead_server_names_the_variable(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LMCOURSE_SERVER", "http://127.0.0.1:9")
    with pytest.raises(ServerError, match="LMCOURSE_SERVER"):
        pipeline("tiny-chat")


def test_a_server_of_several_models_gives_the_one_that_was_named(stand_in, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LMCOURSE_SERVER", stand_in.url)
    with pipeline("~/models/other") as pipe:
        assert pipe.model == "other"
    with pytest.raises(ConfigError, match="no such model"):
        pipeline("third")


def test_the_lessons_script_runs_on_the_class_server(server) -> None:
    script = Path(__file__).parents[1] / "lesson" / "scripts" / "pipeline.py"
    environment = {**os.environ, "LMCOURSE_SERVER": server.url, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.count("finish_reason='stop'") == 2
    assert "asked for: ~/internlm2-chat-1_8b" in done.stdout  # which is not on this machine at all


def test_a_server_started_from_python_never_asks_itself(class_room) -> None:
    with serve_in_background("tiny-chat", SMALL, name="another") as another, another.client() as client:
        assert client("hello", max_new_tokens=1).generate_token_len == 1
