"""What users may pass as a prompt, told apart by type alone, and how each becomes token ids.

    "hello"                                   one user message
    [{"role": "user", "content": "hello"}]    a conversation (OpenAI's form)
    {"prompt_token_ids": [1, 2, 3]}           ids used exactly as given: no template, no BOS
    [prompt, prompt, ...]                     a batch of any of these

Lesson: 2 (passing prompts)
"""

from __future__ import annotations

import operator
from typing import Any

from lmcourse.errors import PromptError
from lmcourse.text.template import ChatTemplate
from lmcourse.text.tokenizer import Tokenizer

__all__ = ["Prompt", "encode_prompt", "split_batch"]

Prompt = str | list[dict[str, Any]] | dict[str, Any]

_IDS = "prompt_token_ids"


def split_batch(prompts: object) -> tuple[list[Any], bool]:
    """The prompts of a batch, and whether it was a single prompt rather than a list of them."""
    if isinstance(prompts, (str, dict)) or _is_image_prompt(prompts):
        return [prompts], True
    if not isinstance(prompts, (list, tuple)):
        raise PromptError(
            "this is not a prompt",
            expected=f'a text, a list of messages, {{"{_IDS}": [...]}}, or a list of these',
            got=type(prompts).__name__,
            next_step="wrap other iterables in list(...)",
        )
    if prompts and all(isinstance(entry, dict) and "role" in entry for entry in prompts):
        return [list(prompts)], True
    if prompts and all(isinstance(entry, int) for entry in prompts):
        raise PromptError(
            "a list of numbers could be ids or a batch",
            expected=f'{{"{_IDS}": [...]}}',
            got=repr(prompts)[:60],
            next_step=f'write {{"{_IDS}": prompt}}',
        )
    return list(prompts), False


def encode_prompt(prompt: object, template: ChatTemplate, tokenizer: Tokenizer, *, wrap: bool = True) -> list[int]:
    """Token ids of one prompt; wrap=False leaves texts without the template. PromptError for what is no prompt."""
    if isinstance(prompt, dict):
        return _given_ids(prompt)
    if _is_image_prompt(prompt):
        raise PromptError(
            "this model takes no images",
            expected="text",
            got="a (text, image) pair",
            next_step="images need a vision-language model, which this version does not run",
        )
    add_bos = template.adds_bos and tokenizer.adds_bos
    if isinstance(prompt, str) and not wrap:
        if not prompt:
            raise PromptError("the prompt is empty", expected="a text of at least one character", got="''")
        return tokenizer.encode(prompt, add_bos=add_bos)
    return tokenizer.encode(template.render(prompt), add_bos=add_bos)  # type: ignore[arg-type]


def _is_image_prompt(prompt: object) -> bool:
    """Whether this is LMDeploy's (text, image) or (text, [images]): a pair whose second half is not text."""
    return (
        isinstance(prompt, tuple) and len(prompt) == 2 and isinstance(prompt[0], str) and not isinstance(prompt[1], str)
    )


def _given_ids(prompt: dict[str, Any]) -> list[int]:
    if set(prompt) != {_IDS}:
        raise PromptError(
            "a prompt that is a dict holds token ids and nothing else",
            expected=f'{{"{_IDS}": [...]}}; messages go into a list',
            got=", ".join(map(repr, prompt)) or "{}",
            next_step='write [{"role": "user", "content": "..."}] for a message',
        )
    ids = prompt[_IDS]
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    try:
        if isinstance(ids, (str, bytes, dict)):
            raise TypeError("not a list")
        return [operator.index(token_id) for token_id in ids]
    except TypeError as error:
        got = repr(prompt[_IDS])[:60]
        raise PromptError(
            "prompt_token_ids must be a flat list of whole numbers", expected="[1, 2, 3]", got=got
        ) from error
