"""A transformers tokenizer from a local folder, without code from the checkpoint.

tokenizer.json → transformers' own fast tokenizer. A folder that has only SentencePiece's tokenizer.model, as the
published InternLM2 has (its tokenizer class is remote code), gets SentencePieceTokenizer: the course's own reader of
that file behind the handful of methods that transformers users call.

Lesson: 2 (transformers)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast

from lmcourse.errors import CheckpointError
from lmcourse.text.byte_vocabulary import BYTE_FILE
from lmcourse.text.tokenizer import Tokenizer

__all__ = ["SentencePieceTokenizer", "load_tokenizer"]


def load_tokenizer(folder: Path) -> Any:
    """Raises CheckpointError if the folder holds neither tokenizer.json nor tokenizer.model."""
    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    if (folder / "tokenizer.model").is_file() or (folder / BYTE_FILE).is_file():
        return SentencePieceTokenizer(folder)
    raise CheckpointError(
        "the model's folder has no tokenizer",
        expected="tokenizer.json or tokenizer.model", got=sorted(path.name for path in folder.iterdir())[:8],
        where=folder, next_step="get the model again, all its files",
    )  # fmt: skip


class SentencePieceTokenizer:
    """The part of transformers' tokenizer interface that scripts use, over `lmcourse.text.Tokenizer`."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_folder(folder)
        self.name_or_path = str(folder)

    def __repr__(self) -> str:
        return f"SentencePieceTokenizer({self.name_or_path!r}, {self.vocab_size} tokens)"

    def __call__(
        self, text: str | list[str], *, add_special_tokens: bool = True, return_tensors: str | None = None
    ) -> BatchEncoding:
        """input_ids and attention_mask; with return_tensors="pt" one text gives tensors [1, num_tokens]."""
        if isinstance(text, str):
            ids: Any = self.encode(text, add_special_tokens=add_special_tokens)
            mask: Any = [1] * len(ids)
        else:
            ids = [self.encode(each, add_special_tokens=add_special_tokens) for each in text]
            mask = [[1] * len(row) for row in ids]
        if return_tensors == "pt":
            batch = [ids], [mask]
            ids, mask = (torch.tensor(rows if isinstance(text, str) else rows[0]) for rows in batch)
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self._tokenizer.encode(text, add_bos=add_special_tokens)

    def decode(self, ids: Any, *, skip_special_tokens: bool = False) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self._tokenizer.token_id(token)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    @property
    def bos_token_id(self) -> int | None:
        return self._tokenizer.bos_id

    @property
    def eos_token_id(self) -> int | None:
        return self._tokenizer.eos_id

    @property
    def unk_token_id(self) -> None:
        """None: `convert_tokens_to_ids` answers None for what is not in the vocabulary."""
