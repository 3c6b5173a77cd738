"""Prompts with pictures through an engine, for the tests of every family that sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmcourse import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import Engine
from lmcourse.text.pictures import PicturedIds, Piece

NUM_NEW = 3


def open_engine(folder: Path, **settings: Any) -> Engine:
    """Short sessions and small blocks, unless the settings say otherwise."""
    usual = {"session_len": 200, "cache_block_seq_len": 16}
    return Engine.from_folder(folder, TurbomindEngineConfig(**usual | settings))


def make_prompt(engine: Engine, parts: Sequence[Any]) -> PicturedIds:
    """Ids and pictures → a prompt."""
    ids: list[int] = []
    pieces = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
        else:
            picture = engine.encoder.prepare(part)
            pieces.append(Piece(len(ids), picture))
            ids += [engine.encoder.placeholder_id] * picture.num_tokens
    return PicturedIds(ids, pieces)


def run(engine: Engine, prompts: Sequence[PicturedIds]) -> list[tuple[list[int], Tensor]]:
    """Per prompt: the tokens chosen, and the log probabilities of all tokens at each [NUM_NEW, vocab]."""
    vocab = engine.spec.vocab
    gen = GenerationConfig(max_new_tokens=NUM_NEW, ignore_eos=True, logprobs=vocab)
    order = [engine.add(prompt, gen) for prompt in prompts]
    tokens: dict[int, list[int]] = {i: [] for i in order}
    reports: dict[int, list[Any]] = {i: [] for i in order}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
            reports[output.request_id] += output.logprobs or []
        engine.check()
    return [(tokens[i], torch.tensor([[report[n] for n in range(vocab)] for report in reports[i]])) for i in order]


def run_parts(engine: Engine, conversations: Sequence[Sequence[Any]]) -> list[tuple[list[int], Tensor]]:
    """`run` of ids and pictures that are no prompts yet."""
    return run(engine, [make_prompt(engine, parts) for parts in conversations])
