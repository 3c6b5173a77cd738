"""Pictures in requests: opened as what they are, a stranger's.

What a request names is opened on the server's machine and by its hand. So a picture is either in the request itself (a
data: URL) or at a public address; paths, file: URLs and addresses inside are refused (vision/fetch.py).

Lesson: 6 (what a server must not fetch)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmcourse.engine import Encoder
from lmcourse.text.pictures import Picture, PictureReader
from lmcourse.vision import load_image

__all__ = ["outside_reader", "shows_pictures"]


@dataclass(frozen=True)
class _OutsideReader:
    """An encoder that opens nothing of this machine."""

    encoder: Encoder

    @property
    def placeholder_id(self) -> int:
        """The encoder's."""
        return self.encoder.placeholder_id

    def prepare(self, source: Any) -> Picture:
        """Open, under the network's rules, and cut."""
        return self.encoder.prepare(load_image(source, over_network=True))


def outside_reader(encoder: Encoder | None) -> PictureReader | None:
    """How a server reads pictures with this encoder; None for a model that takes none."""
    return None if encoder is None else _OutsideReader(encoder)


def shows_pictures(prompt: Any) -> bool:
    """Whether anything in a request's messages is no text: opening it takes time, perhaps a network's."""
    messages = [message for message in prompt if isinstance(message, dict)] if isinstance(prompt, list) else []
    contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    return any(part.get("type") != "text" for content in contents for part in content)
