"""Lesson 2: the same conversation through transformers and through the engine is the same, word for word."""

from __future__ import annotations

import pytest

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.baseline import AutoTokenizer

CONVERSATIONS = [
    ["hello", "please provide three suggestions about time management"],
    ["请介绍一下你自己。", "给我讲个笑话", "上海是"],
    ["My name is Ada. Please remember it.", "What is my name?"],
    ["12 + 34 = ?", "Sort these words: pear, apple, fig", "What is the capital of France?"],
]


@pytest.fixture(scope="module")
def pipe():
    with pipeline("tiny-chat", backend_config=TurbomindEngineConfig(dtype="float32")) as pipe:
        yield pipe


@pytest.mark.parametrize("questions", CONVERSATIONS, ids=lambda questions: questions[0])
def test_conversation_is_the_same_on_both_sides(pipe, transformers_model, questions):
    tokenizer = AutoTokenizer.from_pretrained("tiny-chat")
    history, session = [], None
    for question in questions:
        answer, history = transformers_model.chat(tokenizer, question, history=history, max_new_tokens=128)
        session = pipe.chat(question, session, max_new_tokens=128)
        assert session.response.text == answer
        assert answer
    assert history == [tuple(turn) for turn in session.history]
