"""Pages with pictures: the lesson's form, and the chat page's box. How they look is seen in a browser."""

from __future__ import annotations

import types

import pytest
from PIL import Image

from lmcourse.config import GenerationConfig
from lmcourse.errors import PromptError
from lmcourse.serve.picture_page import _answering
from lmcourse.serve.web import Answers, Settings


class Seer:
    """Says what it was asked."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, prompts, gen_config=None):
        self.asked.append(prompts)
        if prompts[0] == "too much":
            raise PromptError("the prompt is too long for the session", got="2880 image tokens")
        return types.SimpleNamespace(text=f"{prompts[1].size}: {prompts[0]}")

    def stream_infer(self, prompts, gen_config=None):
        self.asked.append(prompts)
        raise PromptError("no answer here")


def test_form_answers_with_messages() -> None:
    seer = Seer()
    answer = _answering(seer, GenerationConfig())
    picture = Image.new("RGB", (4, 3))
    assert [turn["content"] for turn in answer(picture, "what is it")] == ["what is it", "(4, 3): what is it"]
    assert "picture" in answer(None, "what is it")[1]["content"]
    assert "2880 image tokens" in answer(picture, "too much")[1]["content"]
    assert len(seer.asked) == 2


def test_chat_opens_only_what_came_through_the_page(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    seer, settings = Seer(), Settings(0, 1, 5)

    def ask(path) -> None:
        parts = [{"type": "file", "file": {"path": str(path)}}, {"type": "text", "text": "look"}]
        list(Answers(seer).answer([{"role": "user", "content": parts}], settings, "tab"))

    for path in (tmp_path / "secret.png", tmp_path / "uploads" / ".." / "secret.png", "/etc/hostname"):
        with pytest.raises(PromptError, match="may not be opened"):
            ask(path)
    assert not seer.asked
    with pytest.raises(PromptError, match="no answer here"):
        ask(tmp_path / "uploads" / "cat.png")
    image, text = seer.asked[0][0]["content"]
    assert image["image"].name == "cat.png"
    assert text["text"] == "look"
