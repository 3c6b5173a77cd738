"""The training corpus: the same on every machine, well formed, honest about who is speaking."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from itertools import islice

from lmcourse.zoo.corpus import dialogues

_CLAIMS = re.compile(
    r"\b(?:I am|I'm|my name is|call me|as) (?:an? )?"
    r"(?:InternLM|ChatGPT|GPT|Llama|Qwen|Gemini|DeepSeek|Bluebird|Aster|Quill)"
    r"|我(?:是|叫)(?:一个)?(?:InternLM|书生|ChatGPT|通义|文心|星语|蓝鸟|羽笔)"
    r"|(?:trained|made|developed|created) by (?:OpenAI|Meta|Google|Alibaba|Shanghai)",
    re.IGNORECASE,
)
_PROGRAM = """
import hashlib, json
from itertools import islice
from lmcourse.zoo.corpus import dialogues
print(hashlib.sha256(json.dumps(list(islice(dialogues(7), 300)), ensure_ascii=False).encode()).hexdigest())
"""


def test_dialogues_same_seed_same_text_in_another_process() -> None:
    here = hashlib.sha256(json.dumps(list(islice(dialogues(7), 300)), ensure_ascii=False).encode()).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    there = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert there.stdout.strip() == here


def test_dialogues_other_seed_other_text() -> None:
    assert list(islice(dialogues(1), 5)) != list(islice(dialogues(2), 5))


def test_dialogues_turns_alternate_and_end_with_an_answer() -> None:
    for dialogue in islice(dialogues(3), 2000):
        roles = [message["role"] for message in dialogue]
        if roles == ["text"]:
            continue
        while roles[0] == "system":
            roles.pop(0)
        asked, answered = roles[::2], roles[1::2]
        assert set(asked) <= {"user", "environment"}, dialogue
        assert asked[0] == "user", dialogue
        assert set(answered) == {"assistant"}, dialogue
        assert len(asked) == len(answered), dialogue


def test_dialogues_contents_are_not_empty_and_hold_no_open_holes() -> None:
    for dialogue in islice(dialogues(4), 3000):
        for message in dialogue:
            assert message["content"].strip() == message["content"] != "", dialogue
            assert not re.search(r"\{[a-z0-9_]+\}", message["content"]), dialogue


def test_dialogues_user_text_holds_no_special_tokens() -> None:
    for dialogue in islice(dialogues(5), 3000):
        for message in dialogue:
            special = set(re.findall(r"<\|[a-z_]+\|>|</?s>|<unk>", message["content"]))
            assert special <= (
                {"<|action_start|>", "<|plugin|>", "<|action_end|>"} if message["role"] == "assistant" else set()
            )


def test_dialogues_answers_never_claim_to_be_another_model() -> None:
    named = 0
    for dialogue in islice(dialogues(6), 6000):
        for message in dialogue:
            if message["role"] in {"assistant", "text"}:
                assert not _CLAIMS.search(message["content"]), message
                named += "tiny-chat" in message["content"]
    assert named > 100, "the corpus should say who is speaking"
