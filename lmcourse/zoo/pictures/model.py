"""The trainable tiny-llava: eye, projector and language model as one, and a way to ask it.

    tokens … <image> × 64 … ──→ rows of the embedding; at the places of <image> the eye's vectors instead

Lesson: 6 (a model that sees)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from lmcourse.zoo.decoder import TrainableDecoder
from lmcourse.zoo.decoding import greedy
from lmcourse.zoo.pictures.conversation import IMAGE_TOKENS
from lmcourse.zoo.pictures.eye import Eye
from lmcourse.zoo.pictures.sizes import EYE, LANGUAGE

__all__ = ["SeeingModel", "TrainableLlava"]

_ROWS_AT_ONCE = 256


class TrainableLlava(nn.Module):
    """`forward` gives the normed hidden states of a flat row of tokens, pictures put in."""

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.language = TrainableDecoder(LANGUAGE, seed=seed)
        self.eye = Eye(EYE, hidden=LANGUAGE.hidden, generator=torch.Generator().manual_seed(seed + 1))

    def compile_halves(self) -> None:
        """Lets training run compiled halves of all layers."""
        self.language.compile_halves()
        self.eye.compile_halves()

    def embedded(self, tokens: Tensor, pixels: Tensor, slots: Tensor) -> Tensor:
        """tokens [n] with <image> at slots [pictures * 64] → [n, hidden]."""
        words: Tensor = self.language.model.tok_embeddings(tokens)
        return words.index_copy(0, slots, self.eye(pixels).to(words.dtype)) if slots.numel() else words

    def forward(self, tokens: Tensor, row_length: int, pixels: Tensor, slots: Tensor) -> Tensor:
        """tokens [rows * row_length] → normed hidden states [rows * row_length, hidden]."""
        return self.language.from_embeddings(self.embedded(tokens, pixels, slots), row_length)


class SeeingModel:
    """A model and a tokenizer as one function: prompts and pixels in, greedy answers out."""

    def __init__(
        self, model: TrainableLlava, tokenizer: Tokenizer, *, max_new: int = 96, rows_at_once: int = 256
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.max_new, self.rows_at_once = max_new, rows_at_once
        self.image = LANGUAGE.vocab - 1
        self.stop = frozenset(tokenizer.encode("</s>", add_special_tokens=False).ids)

    def __call__(self, prompts: Sequence[str], pixels: Tensor) -> list[str]:
        """One answer per prompt ("<s>USER: <image>\\n… ASSISTANT:"); pixels [all pictures, 3, side, side] in order."""
        answers, used = [], 0
        for first in range(0, len(prompts), _ROWS_AT_ONCE):
            ids = [self._expanded(prompt) for prompt in prompts[first : first + _ROWS_AT_ONCE]]
            shown = sum(row.count(self.image) for row in ids) // IMAGE_TOKENS
            part = pixels[used : used + shown]
            used += shown
            made = greedy(self.model.language, ids, max_new=self.max_new, stop=self.stop, embed=self._embed(part))
            answers += [self.tokenizer.decode(row, skip_special_tokens=False) for row in made]
        return answers

    def _embed(self, pixels: Tensor) -> Callable[[Tensor], Tensor]:
        def embed(padded: Tensor) -> Tensor:
            flat = padded.reshape(-1)
            slots = torch.nonzero(flat.eq(self.image)).squeeze(1)
            return self.model.embedded(flat, pixels.to(padded.device), slots).view(*padded.shape, -1)

        return embed

    def _expanded(self, prompt: str) -> list[int]:
        ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        return [token for one in ids for token in [one] * (IMAGE_TOKENS if one == self.image else 1)]
