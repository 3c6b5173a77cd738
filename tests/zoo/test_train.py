"""Batches hold whole dialogues and the right targets; a tiny run trains, writes a model and repeats itself."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from lmcourse.bundled import model_path
from lmcourse.zoo.batches import IGNORED, BatchStream
from lmcourse.zoo.checkpoint import TINY_CHAT, load_state
from lmcourse.zoo.corpus import dialogues
from lmcourse.zoo.decoder import TrainableDecoder
from lmcourse.zoo.dialogue import encode_dialogues, render
from lmcourse.zoo.train import Plan, train

_TOKENIZER = model_path("tiny-chat") / "tokenizer.json"


def test_encode_dialogues_learns_answers_and_their_end_only() -> None:
    tokenizer = Tokenizer.from_file(str(_TOKENIZER))
    made = list(islice(dialogues(31), 300))
    for dialogue, (ids, learned) in zip(made, encode_dialogues(tokenizer, made), strict=True):
        assert tokenizer.decode(ids.tolist(), skip_special_tokens=False) == render(dialogue)
        taught = tokenizer.decode(ids[learned].tolist(), skip_special_tokens=False)
        if dialogue[0]["role"] == "text":
            assert taught == dialogue[0]["content"] + "</s>"
        else:
            answers = [message["content"] for message in dialogue if message["role"] == "assistant"]
            assert taught == "".join(answer + "<|im_end|>" for answer in answers)


def test_batches_have_one_size_and_next_tokens_as_targets() -> None:
    for batch in islice(BatchStream(_TOKENIZER, seed=5, tokens_per_batch=3840), 40):
        assert batch.tokens.numel() == 3840
        assert batch.positions.numel() == batch.targets.numel() == 1920
        assert 3840 % batch.row_length == 0
        kept = batch.targets != IGNORED
        assert kept.any()
        assert (batch.tokens[batch.positions[kept] + 1] == batch.targets[kept]).all()
        assert ((batch.positions[kept] + 1) % batch.row_length != 0).all(), "a target never lies in the next row"
        assert (batch.tokens.view(-1, batch.row_length)[:, 0] == 1).all(), "rows begin with <s>"


def test_train_two_steps_write_a_model_and_repeat(tmp_path: Path) -> None:
    losses = []
    for name in ("one", "two"):
        out = tmp_path / name
        out.mkdir()
        (out / "tokenizer.json").write_bytes(_TOKENIZER.read_bytes())
        plan = Plan(
            out=out, steps=2, minutes=5, device="cpu", workers=0, tokens_per_batch=960, report_seconds=1e9, checks=1
        )
        reports = train(plan, log=lambda line: None)
        losses.append(reports[-1]["loss"])
        TrainableDecoder(TINY_CHAT, seed=0).load_state_dict(load_state(out))
        assert json.loads((out / "training.json").read_text())[-1]["step"] == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
