"""Pictures on their way to a server: whatever the pipeline takes, as image_url parts.

URLs go as they are, and the server fetches them if it may; everything else travels in the request, as a data: URL.

Lesson: 6 (the same through a server)
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmcourse.errors import PromptError
from lmcourse.text.pictures import Part
from lmcourse.text.template import Message

__all__ = ["write_messages"]

_BEGINNINGS = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
    (b"BM", "image/bmp"),
)
_URL = re.compile(r"(https?://|data:)", re.IGNORECASE)
_WRITABLE = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that PNG has


def write_messages(messages: Sequence[Message]) -> list[Message]:
    """A checked conversation in OpenAI's form."""
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [_write_part(part) for part in message["content"]]}
        for message in messages
    ]


def _write_part(part: Part) -> Part:
    if part["type"] != "image":
        return part
    return {"type": "image_url", "image_url": {"url": _to_url(part["image"])}}


def _to_url(source: Any) -> str:
    if isinstance(source, str) and _URL.match(source):
        return source
    if isinstance(source, str | os.PathLike):
        path = Path(re.sub(r"^file:(//(localhost)?(?=/))?", "", os.fspath(source))).expanduser()
        try:
            content = path.read_bytes() if path.is_file() else b""
        except OSError as error:
            raise PromptError("the picture cannot be read", got=str(error), where=path) from error
        if not content:
            raise PromptError("there is no picture", expected="a file", got="nothing, or an empty one", where=path)
    else:
        content = bytes(source) if isinstance(source, bytes | bytearray) else _to_png(source)
    kind = next((kind for start, kind in _BEGINNINGS if content.startswith(start)), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _to_png(source: Any) -> bytes:
    """Of a PIL picture, or of an array as PIL takes it."""
    from PIL import Image, ImageOps

    try:
        picture = source if isinstance(source, Image.Image) else Image.fromarray(source)
        upright = ImageOps.exif_transpose(picture)
        file = io.BytesIO()
        (upright if upright.mode in _WRITABLE else upright.convert("RGB")).save(file, "PNG")
    except (TypeError, ValueError, AttributeError, OSError) as error:
        raise PromptError(
            "this is not a picture",
            expected="a path, an http(s) or data: URL, bytes, a PIL picture, or an array of uint8",
            got=f"{type(source).__name__}: {error}"[:120],
        ) from error
    return file.getvalue()
