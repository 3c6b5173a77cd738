"""Pictures in prompts: how a conversation names them, and how token ids carry them to the engine.

    ("what is this?", picture)  ─┐
    {"type": "image_url", …}    ─┴→ parts of a message → "USER: ▢\\nwhat is this? ASSISTANT:" → ids and pieces
                                                              │
    ids      1  3148 …  29901 │ 0  0  0  0  0  0  0  0 … │ 13  5816 …       as many placeholders as there are features
    pieces                    └ Piece(start, picture) ───┘

What a picture becomes is an encoder's business (vision/); here it is something with a length and a name.

Lesson: 6 (where the picture goes in the prompt)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from lmcourse.errors import PromptError

__all__ = [
    "Part",
    "Picture",
    "PictureReader",
    "PicturedIds",
    "Piece",
    "is_pictured",
    "message_texts",
    "picture_sources",
    "pictured_message",
    "read_parts",
]

Part = dict[str, Any]  # {"type": "text", "text": ...} or {"type": "image", "image": whatever load_image takes}

_URL_STARTS = ("http://", "https://", "data:image/")


class Picture(Protocol):
    """A picture made ready for one model."""

    @property
    def num_tokens(self) -> int:
        """Features that it becomes: the tokens whose place they take."""

    @property
    def key(self) -> bytes:
        """A hash of its contents: pictures with equal keys have equal features."""


class PictureReader(Protocol):
    """Makes pictures ready."""

    @property
    def placeholder_id(self) -> int:
        """The token id that stands where features go."""

    def prepare(self, source: Any) -> Picture:
        """PromptError for what is no picture, or one that must not be opened."""


class Piece(NamedTuple):
    """A picture and its place among a prompt's tokens."""

    start: int
    picture: Picture

    @property
    def stop(self) -> int:
        """One behind its last token."""
        return self.start + self.picture.num_tokens


class PicturedIds(list[int]):
    """Token ids, and the pictures whose features take the place of some."""

    def __init__(self, ids: Iterable[int], pieces: Iterable[Piece]) -> None:
        super().__init__(ids)
        self.pieces = tuple(pieces)


def is_pictured(prompt: object) -> bool:
    """Whether this is LMDeploy's (text, image) or (text, [images]): a pair whose second half is no text, or an URL."""
    if not isinstance(prompt, tuple) or len(prompt) != 2 or not isinstance(prompt[0], str):
        return False
    return not isinstance(prompt[1], str) or prompt[1].startswith(_URL_STARTS)


def pictured_message(prompt: tuple[str, Any]) -> dict[str, Any]:
    """A (text, image or images) pair as a message of the user."""
    text, given = prompt
    images = list(given) if isinstance(given, (list, tuple)) else [given]
    if not images:
        raise PromptError("the list of images is empty", expected="(text, image) or (text, [image, ...])", got="[]")
    parts: list[Part] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def read_parts(parts: Sequence[Any]) -> str | list[Part] | None:
    """OpenAI's content in parts: the text if there is nothing else, else our own parts; None if it is not that."""
    read = [_read_part(part) for part in parts]
    known = [part for part in read if part is not None]
    if len(known) != len(read):
        return None
    if all(part["type"] == "text" for part in known):
        return "".join(part["text"] for part in known)
    return known


def _read_part(part: object) -> Part | None:
    match part:
        case {"type": "text", "text": str() as text}:
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": source}} | {"type": "image_url", "image_url": str() as source}:
            return {"type": "image", "image": source}
        case {"type": "image", "image": source} | {"type": "image_data", "image_data": {"data": source}}:
            return {"type": "image", "image": source}
    return None


def picture_sources(messages: Iterable[dict[str, Any]]) -> list[Any]:
    """What the pictures of a checked conversation are made from, in their order."""
    contents = (message["content"] for message in messages if not isinstance(message["content"], str))
    return [part["image"] for content in contents for part in content if part["type"] == "image"]


def message_texts(messages: Iterable[dict[str, Any]]) -> list[str]:
    """All texts of a checked conversation."""
    texts: list[str] = []
    for message in messages:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
    return texts
