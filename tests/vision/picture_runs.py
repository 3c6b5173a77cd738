"""Prompts with pictures through an engine, for the tests of every family that sees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmcourse import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import Engine
from lmcourse.lite.held_tensors import unpacked
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


def assert_best(token: int, logits: Tensor, *, atol: float = 1e-4) -> None:
    """No other token is likelier by more than two ways of summing in float32 may differ."""
    assert logits[token] >= logits.max() - 2 * atol


def assert_same_answers(
    found: Sequence[tuple[list[int], Tensor]], wanted: Sequence[tuple[list[int], Tensor]], *, atol: float = 1e-4
) -> None:
    """Log probabilities as far as the tokens agree; where they part, the two tokens must be as good as equally likely.

    What follows another token is another text, and two float32 sums in another order may break a near tie either way.
    """
    for (tokens, report), (same, wanted_report) in zip(found, wanted, strict=True):
        assert len(tokens) == len(same)
        alike = next((n for n, pair in enumerate(zip(tokens, same, strict=True)) if pair[0] != pair[1]), len(same) - 1)
        torch.testing.assert_close(report[: alike + 1], wanted_report[: alike + 1], rtol=0, atol=atol)
        assert wanted_report[alike, same[alike]] - wanted_report[alike, tokens[alike]] <= 2 * atol


def stored_weights(packed: Path) -> dict[str, Tensor]:
    """What a packed model's folder stands for: its tensors, packed ones as plain float32."""
    tensors = unpacked(load_file(packed / "model.safetensors"), torch.device("cpu"))
    return {name: tensor.float() for name, tensor in tensors.items()}


def plain_copy(packed: Path, folder: Path) -> Path:
    """The same model with its packed weights as ordinary ones."""
    shutil.copytree(packed, folder, symlinks=True)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(stored_weights(packed), folder / "model.safetensors")
    return folder
