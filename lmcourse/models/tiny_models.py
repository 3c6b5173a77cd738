"""Tiny models: for each family a config as its publisher writes them, small enough to run in the blink of an eye.

    bundled/tiny_configs.json   {family: config.json}
    write_tiny_model            → a folder with this config, weights drawn under the family's own names when it is
                                  loaded, and a vocabulary of bytes

What runs so reads the family's config, names and layout; only the numbers mean nothing.

Lesson: 8 (the table, live)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmcourse.bundled import tiny_configs
from lmcourse.models.language_part import language_config
from lmcourse.models.random_weights import RANDOM_FILE

__all__ = ["write_tiny_model"]

_STD = 0.2  # wide enough that the likeliest token is far from the next one
_SMALLEST_VOCAB = 320  # 256 bytes, and what configs call bos and eos


def write_tiny_model(
    family: str, folder: Path, *, seed: int = 0, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write a family's tiny model into a folder, which is made; its config, with `changes`, is given back."""
    config = tiny_configs()[family] | dict(changes or {})
    language = language_config(config)
    vocab = language.get("padded_vocab_size", language.get("vocab_size"))
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": config,
        RANDOM_FILE: {"seed": seed, "std": _STD},
        "byte_tokenizer.json": {"vocab_size": max(vocab, _SMALLEST_VOCAB), "first_byte_id": 16},
        "tokenizer_config.json": {"add_bos_token": False},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return config
