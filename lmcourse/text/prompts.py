"""What users may pass as a prompt, told apart by type alone, and how each becomes token ids.

    "hello"                                   one user message
    [{"role": "user", "content": "hello"}]    a conversation (OpenAI's form), with image_url parts where it has images
    ("what is this?", image or [images])      one user message with images: whatever load_image takes
    {"prompt_token_ids": [1, 2, 3]}           ids used exactly as given: no template, no BOS
    [prompt, prompt, ...]                     a batch of any of these

Lesson: 2 (passing prompts), 6 (where the picture goes in the prompt)
"""

from __future__ import annotations

import operator
from typing import Any

from lmcourse.errors import PromptError
from lmcourse.text.pictures import (
    Picture,
    PicturedIds,
    PictureReader,
    Piece,
    is_pictured,
    message_texts,
    picture_sources,
)
from lmcourse.text.template import ChatTemplate, Message, check_messages
from lmcourse.text.tokenizer import Tokenizer

__all__ = ["Prompt", "encode_prompt", "split_batch"]

Prompt = str | list[dict[str, Any]] | dict[str, Any] | tuple[str, Any]

_IDS = "prompt_token_ids"


def split_batch(prompts: object) -> tuple[list[Any], bool]:
    """The prompts of a batch, and whether it was a single prompt rather than a list of them."""
    if isinstance(prompts, (str, dict)) or is_pictured(prompts):
        return [prompts], True
    if isinstance(prompts, tuple) and len(prompts) == 2 and all(isinstance(entry, str) for entry in prompts):
        raise PromptError(
            "a pair of texts could be two prompts, or a text and the path of an image",
            expected="[text, text], or (text, load_image(path))",
            got=repr(prompts)[:80],
            next_step="from lmcourse.vl import load_image; or write a list for a batch",
        )
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


def encode_prompt(
    prompt: object,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    wrap: bool = True,
    reader: PictureReader | None = None,
    session_len: int | None = None,
) -> list[int]:
    """Token ids of one prompt, PicturedIds where it has images; wrap=False leaves texts without the template.

    reader: the model's, None if it takes no images. session_len: opening images ends where they are more than that.
    PromptError for what is no prompt.
    """
    if isinstance(prompt, dict):
        return _given_ids(prompt)
    add_bos = template.adds_bos and tokenizer.adds_bos
    if isinstance(prompt, str) and not wrap:
        if not prompt:
            raise PromptError("the prompt is empty", expected="a text of at least one character", got="''")
        return tokenizer.encode(prompt, add_bos=add_bos)
    messages = check_messages(prompt)
    sources = picture_sources(messages)
    if not sources:
        return tokenizer.encode(template.render(messages), add_bos=add_bos)
    if reader is None:
        raise PromptError(
            "this model takes no images",
            expected="text",
            got=f"text and {len(sources)} image{'s' * (len(sources) > 1)}",
            next_step="load a vision-language model: tiny-llava, or a LLaVA folder",
        )
    pictures = _prepare_all(reader, sources, session_len)
    template = template if wrap else template.adapted(None, "completion")
    return _join(messages, pictures, template, tokenizer, reader.placeholder_id)


def _prepare_all(reader: PictureReader, sources: list[Any], session_len: int | None) -> list[Picture]:
    pictures, num_tokens = [], 0
    for i, source in enumerate(sources):
        pictures.append(_prepare(reader, source, i if len(sources) > 1 else None))
        num_tokens += pictures[-1].num_tokens
        if session_len is not None and num_tokens >= session_len:
            first = "it" if len(sources) == 1 else f"the first {i + 1}" if i else "the first"
            raise PromptError(
                "the prompt is too long for the session",
                expected=f"at most {session_len - 1} tokens, which leaves room for one new token",
                got=f"{len(sources)} image{'s' * (len(sources) > 1)}; {first} alone: {num_tokens} image tokens",
                next_step="raise session_len, or give fewer images",
            )
    return pictures


def _prepare(reader: PictureReader, source: object, number: int | None) -> Picture:
    try:
        return reader.prepare(source)
    except PromptError as error:
        if number is None:
            raise
        where = f"image {number}" if error.where is None else f"image {number}, {error.where}"
        raise PromptError(
            error.what, expected=error.expected, got=error.got, where=where, next_step=error.next_step
        ) from error


def _join(
    messages: list[Message], pictures: list[Picture], template: ChatTemplate, tokenizer: Tokenizer, placeholder_id: int
) -> PicturedIds:
    """The text between pictures is encoded piece by piece, each behind the picture's own token where there is one."""
    mark = "<image>"
    while any(mark in text for text in message_texts(messages)):
        mark = f"<{mark}>"  # what users write is text, whatever it looks like
    first, *others = template.render(messages, mark).split(mark)
    own = "<image>" if tokenizer.token_id("<image>") in tokenizer.special_ids else ""
    ids = tokenizer.encode(first, add_bos=template.adds_bos and tokenizer.adds_bos)
    pieces = []
    for picture, text in zip(pictures, others, strict=True):
        pieces.append(Piece(len(ids), picture))
        ids += [placeholder_id] * picture.num_tokens
        ids += tokenizer.encode(own + text, add_bos=False)[bool(own) :]
    return PicturedIds(ids, pieces)


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
