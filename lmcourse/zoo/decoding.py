"""Batched greedy decoding with the trainable decoder, plain and exact: the trainer's way to ask its model.

Prompts are padded on the right; every row writes its next key and value at its own position, over the padding:

    row 0   p p p p p g g .      position[0] = 7
    row 1   p p g g . . . .      position[1] = 4
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from tokenizers import Tokenizer
from torch import Tensor

from lmcourse.zoo.decoder import TrainableDecoder, causal_attention, rotary_table
from lmcourse.zoo.dialogue import Message, render

__all__ = ["ChatModel", "greedy"]


class _Cache:
    """Keys and values of all layers, [rows, kv_heads, room, head_dim], and each row's number of tokens."""

    def __init__(self, model: TrainableDecoder, rows: int, room: int, device: torch.device) -> None:
        sizes = model.sizes
        shape = (sizes.num_layers, 2, rows, sizes.num_kv_heads, room, sizes.head_dim)
        self.kv = torch.zeros(shape, device=device)
        self.cos, self.sin = rotary_table(room, sizes, device)


def _prefill(model: TrainableDecoder, prompts: Tensor, cache: _Cache, lengths: Tensor) -> Tensor:
    """Embedded prompts [rows, width, hidden] → logits after each row's last prompt token [rows, vocab]."""
    rows, width, _ = prompts.shape
    cos, sin = cache.cos[:width].repeat(rows, 1), cache.sin[:width].repeat(rows, 1)
    x = prompts.reshape(rows * width, -1)
    for index, layer in enumerate(model.model.stack()):
        parts = layer.before_attention(x, cos, sin)
        q, k, v = (part.view(rows, width, -1, model.sizes.head_dim).transpose(1, 2) for part in parts)
        cache.kv[index, 0, :, :, :width], cache.kv[index, 1, :, :, :width] = k, v
        mixed = causal_attention(q, k, v)
        x = layer.after_attention(x, mixed.transpose(1, 2).reshape(rows * width, -1))
    last = x.view(rows, width, -1)[torch.arange(rows, device=x.device), lengths - 1]
    logits: Tensor = model.output(model.model.norm(last))
    return logits


def _step(model: TrainableDecoder, tokens: Tensor, cache: _Cache, positions: Tensor) -> Tensor:
    """tokens [rows] at positions [rows] → logits [rows, vocab]."""
    rows = torch.arange(tokens.numel(), device=tokens.device)
    room = cache.kv.shape[4]
    seen = (torch.arange(room, device=tokens.device) <= positions[:, None])[:, None, None]
    x = model.model.tok_embeddings(tokens)
    for index, layer in enumerate(model.model.stack()):
        q, k, v = layer.before_attention(x, cache.cos[positions], cache.sin[positions])
        cache.kv[index, 0, rows, :, positions], cache.kv[index, 1, rows, :, positions] = k, v
        mixed = F.scaled_dot_product_attention(
            q[:, :, None], cache.kv[index, 0], cache.kv[index, 1], attn_mask=seen, enable_gqa=True
        )
        x = layer.after_attention(x, mixed.reshape(tokens.numel(), -1))
    logits: Tensor = model.output(model.model.norm(x))
    return logits


@torch.inference_mode()
def greedy(
    model: TrainableDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    stop: frozenset[int],
    embed: Callable[[Tensor], Tensor] | None = None,
) -> list[list[int]]:
    """Most likely continuations of prompts of any lengths, without the stop token.

    `embed` makes [rows, width, hidden] of the padded ids [rows, width]; without it every id is a word of the model.
    """
    device = model.output.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = int(lengths.max())
    room = min(width + max_new, model.sizes.max_context)
    padded = torch.tensor([[*prompt, *[2] * (width - len(prompt))] for prompt in prompts], device=device)
    cache = _Cache(model, len(prompts), room, device)
    logits = _prefill(model, (embed or model.model.tok_embeddings)(padded), cache, lengths)
    stops = torch.tensor(sorted(stop), device=device)
    made, running = [], torch.ones(len(prompts), dtype=torch.bool, device=device)
    for step in range(room - width):
        chosen = logits.argmax(-1)
        running = running & ~torch.isin(chosen, stops)
        made.append(torch.where(running, chosen, -1))
        if step % 8 == 7 and not bool(running.any()):
            break
        logits = _step(model, chosen, cache, lengths + step)
    columns = torch.stack(made, dim=1).tolist()
    return [[token for token in row if token >= 0] for row in columns]


class ChatModel:
    """A decoder and a tokenizer as one function: dialogues in, answers out."""

    def __init__(
        self, model: TrainableDecoder, tokenizer: Tokenizer, *, max_new: int = 160, tokens_at_once: int = 400_000
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.max_new, self.tokens_at_once = max_new, tokens_at_once
        self.stop = frozenset(tokenizer.encode("<|im_end|></s>", add_special_tokens=False).ids)

    def __call__(self, dialogues: list[list[Message]]) -> list[str]:
        """One answer for each dialogue, computed in batches of prompts of similar length."""
        texts = [render(dialogue) + "<|im_start|>assistant\n" for dialogue in dialogues]
        prompts = [e.ids for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers = [""] * len(prompts)
        while order:
            rows = max(1, min(len(order), self.tokens_at_once // (len(prompts[order[-1]]) + self.max_new)))
            chosen, order = order[-rows:], order[:-rows]
            made = greedy(self.model, [prompts[i] for i in chosen], max_new=self.max_new, stop=self.stop)
            for index, ids in zip(chosen, made, strict=True):
                answers[index] = self.tokenizer.decode(ids, skip_special_tokens=False)
        return answers
