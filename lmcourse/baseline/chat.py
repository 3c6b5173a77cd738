"""`model.chat(tokenizer, query, history)` for a transformers model, and a `.cuda()` that works without a GPU.

This is what InternLM2's remote code gave the lesson's scripts. The prompt comes from the same chat template that the
engine uses, and without other settings the answer is greedy, so that the two sides can be compared token by token.

    history   [(question, answer), …]     oldest first; never changed in place, the longer one is returned

Lesson: 2 (transformers chat against engine chat)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lmcourse.baseline.generate import generate_ids
from lmcourse.baseline.notes import say
from lmcourse.config import ChatTemplateConfig
from lmcourse.errors import PromptError
from lmcourse.text.chat_template import ChatTemplate, find_template

__all__ = ["ChatMixin", "History"]

History = list[tuple[str, str]]


class ChatMixin:
    """Mixed into a transformers causal language model that was loaded from a local folder."""

    def chat(
        self,
        tokenizer: Any,
        query: str,
        history: Sequence[tuple[str, str]] | None = None,
        *,
        max_new_tokens: int = 1024,
        meta_instruction: str | None = None,
        **sampling: Any,
    ) -> tuple[str, History]:
        """The answer to `query` and the history with this turn added.

        meta_instruction replaces the template's system prompt ("" removes it). `sampling` goes to transformers'
        `generate`: do_sample, temperature, top_p, …, streamer.
        """
        model: Any = self
        template = find_template(ChatTemplateConfig(meta_instruction=meta_instruction), Path(model.name_or_path))
        prompt_ids = _prompt_ids(template, tokenizer, [*(history or []), (query, None)])
        room = model.config.max_position_embeddings - len(prompt_ids)
        if room < 1:
            raise PromptError(
                "the conversation fills the model's context",
                expected=f"fewer than {model.config.max_position_embeddings} tokens",
                got=f"{len(prompt_ids)} tokens", where="history and query",
                next_step="start again with history=[]",
            )  # fmt: skip
        stop_ids = _stop_ids(template, tokenizer, model)
        new_ids = generate_ids(model, prompt_ids, min(max_new_tokens, room), stop_ids=stop_ids, **sampling)
        response = tokenizer.decode(new_ids, skip_special_tokens=True)
        return response, [*(history or []), (query, response)]

    def cuda(self, device: int | torch.device | None = None) -> Any:
        """Move to a CUDA device if there is one; else stay on the CPU, where float16 becomes float32. Says which."""
        model: Any = self
        if torch.cuda.is_available():
            moved = super().cuda(device)  # type: ignore[misc]
            say(f"model on {moved.device} ({torch.cuda.get_device_name(moved.device)}), {_name(moved.dtype)}")
            return moved
        if model.dtype == torch.float16:
            say("no CUDA device: the model stays on the CPU, in float32 (float16 arithmetic is slow there)")
            return model.float()
        say(f"no CUDA device: the model stays on the CPU, in {_name(model.dtype)}")
        return model


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _prompt_ids(template: ChatTemplate, tokenizer: Any, turns: Sequence[tuple[str, str | None]]) -> list[int]:
    messages: list[dict[str, str]] = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    ids = list(tokenizer(template.render(messages), add_special_tokens=False).input_ids)
    add_bos = template.adds_bos and tokenizer.bos_token_id is not None
    return [tokenizer.bos_token_id, *ids] if add_bos else ids


def _stop_ids(template: ChatTemplate, tokenizer: Any, model: Any) -> list[int]:
    """The model's own end ids and those of the template's stop words: InternLM2's config knows only </s>."""
    own = model.generation_config.eos_token_id
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    words = [tokenizer.convert_tokens_to_ids(word) for word in template.stop_words]
    return list(dict.fromkeys([*own, *(i for i in words if i is not None and i != tokenizer.unk_token_id)]))
