"""load_image: whatever a picture comes as → 8-bit RGB, or one clear error.

    path · bytes · data: URL · http(s) URL · PIL picture · array ──→ decoder ──→ RGB, upright, one frame

The decoder defines every picture, so that what follows is the same arithmetic for all of them: the first frame, turned
as EXIF says, transparency laid on white, 16 bits cut to 8, grey repeated three times. Only common formats are opened,
and their size is known before a pixel is: a few bytes can promise more pixels than a machine has room for.

Contract: over_network=True is for what strangers send: no local files, no addresses inside (fetch.py).

Lesson: 6 (from a file to pixels)
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import ExifTags, Image, ImageOps

from lmcourse.errors import PromptError
from lmcourse.vision.fetch import fetch

__all__ = ["MOST_BYTES", "MOST_PIXELS", "decode", "load_image"]

MOST_PIXELS = 2**26  # a picture of 8192 x 8192; as RGB 192 MiB
MOST_BYTES = 32 * 2**20  # of a file
_MOST_SIDE = 8192  # longer ones are made smaller: padded to a square they would take too much room
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*(?P<base64>;base64)?,", re.ASCII)
_FILE_URL = re.compile(r"^file:(//(localhost)?(?=/))?", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: C:\\ is a path


def load_image(source: Any, *, over_network: bool = False, timeout_seconds: float = 10.0) -> Image.Image:
    """The picture as PIL's RGB; PromptError for what cannot be fetched, opened or be a picture.

    source: a path, an http(s), data: or file: URL, the bytes of a file, a PIL picture, or a uint8 array [height, width]
    or [height, width, 3 or 4].
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes | bytearray):
        return decode(bytes(source))
    if isinstance(source, str) and source[:5].lower() == "data:":
        return decode(_read_data_url(source))
    if isinstance(source, str) and source[:8].lower().startswith(("http://", "https://")):
        where = source.split("?")[0][:200]
        content = fetch(source, over_network=over_network, timeout_seconds=timeout_seconds, most_bytes=MOST_BYTES)
        return decode(content, where=where)
    if isinstance(source, str | os.PathLike):
        return _from_file(os.fspath(source), over_network=over_network)
    raise PromptError(
        "this is not a picture",
        expected="a path, an http(s) or data: URL, bytes, a PIL picture, or an array of uint8",
        got=type(source).__name__,
    )


def decode(content: bytes, *, where: object = None) -> Image.Image:
    """The picture in a file's bytes."""
    if len(content) > MOST_BYTES:
        raise _refused("the picture's file is too big", f"{len(content)} bytes", where, f"at most {MOST_BYTES} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes and metadata; what matters is checked here
            picture = Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise _refused("the picture is too large", str(error)[:200], where, f"at most {MOST_PIXELS} pixels") from error
    except Exception as error:
        got = f"{len(content)} bytes that begin with {content[:8]!r}" if content else "nothing"
        raise _refused("this is not a picture", got, where, " | ".join(_FORMATS)) from error
    return _upright_rgb(picture, where)


def _check_size(picture: Image.Image, where: object) -> None:
    width, height = picture.size
    if width * height > MOST_PIXELS:
        got = f"{width} x {height}, {width * height} pixels"
        raise _refused("the picture is too large", got, where, f"at most {MOST_PIXELS} pixels")
    if width < 1 or height < 1:
        raise _refused("the picture is empty", f"{width} x {height}", where, "at least one pixel")


def _upright_rgb(picture: Image.Image, where: object = None) -> Image.Image:
    """8-bit RGB of the first frame, turned as EXIF says."""
    _check_size(picture, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if getattr(picture, "is_animated", False):
                picture.seek(0)
            picture.load()
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
            upright = ImageOps.exif_transpose(picture) if turned else picture
            flat = _on_white(_eight_bits(upright, where))
    except PromptError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the decoders, with anything
        raise _refused(
            "the picture is damaged or incomplete", f"{type(error).__name__}: {error}"[:200], where, "a whole file"
        ) from error
    longest = max(flat.size)
    if longest <= _MOST_SIDE:
        return flat
    width, height = (max(1, side * _MOST_SIDE // longest) for side in flat.size)
    return flat.resize((width, height), Image.Resampling.BICUBIC)


def _eight_bits(picture: Image.Image, where: object) -> Image.Image:
    """Grey of 16 bits cut to the upper 8; PIL keeps it in modes of its own and would clip it."""
    if picture.mode == "F":
        expected = "whole numbers of 8 or 16 bits"
        raise _refused("the picture's pixels are floating-point numbers", "32-bit floats", where, expected)
    if not picture.mode.startswith("I"):
        return picture
    values = np.clip(np.asarray(picture).astype(np.int64), 0, 2**16 - 1)
    return Image.fromarray((values >> 8).astype(np.uint8))


def _on_white(picture: Image.Image) -> Image.Image:
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[-1] in (3, 4)
    if array.dtype != np.uint8 or not (grey or colour) or 0 in array.shape:
        raise PromptError(
            "this array is not a picture",
            expected="uint8 [height, width] or [height, width, 3 or 4]",
            got=f"{array.dtype} {list(array.shape)}",
        )
    return _upright_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _read_data_url(url: str) -> bytes:
    head = _DATA_URL.match(url)
    shown = url[:40] + "…"
    if head is None or head["base64"] is None:
        raise _refused("this data: URL cannot be read", shown, None, "data:image/png;base64,...")
    if head["type"] and not head["type"].startswith(("image/", "application/octet-stream")):
        raise _refused("this data: URL holds no picture", head["type"], None, "data:image/...;base64,...")
    body = url[head.end() :]
    if len(body) > MOST_BYTES * 4 // 3 + 4:
        raise _refused("the picture's file is too big", f"{len(body)} characters", None, f"at most {MOST_BYTES} bytes")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused("the base64 of this data: URL is broken", f"{shown} ({error})", None, "whole base64") from error


def _from_file(name: str, *, over_network: bool) -> Image.Image:
    scheme = _SCHEME.match(name)
    if over_network or (scheme and scheme[0].lower() != "file:"):
        got = scheme[0] if scheme else "a path"
        expected = "an http(s) or data: URL" if over_network else "a path, or an http(s), data: or file: URL"
        raise _refused("this picture may not be opened", got, name[:80], expected)
    path = Path(unquote(_FILE_URL.sub("", name)) if scheme else name).expanduser()
    try:
        if not path.is_file():
            got = "something that is not a file" if path.exists() else "nothing of that name"
            raise _refused("there is no picture", got, path, "a regular file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _refused("the picture's file is too big", f"{size} bytes", path, f"at most {MOST_BYTES} bytes")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, PromptError):
            raise
        raise _refused("the picture cannot be read", str(error), path, "a file that you may read") from error
    return decode(content, where=path)


def _refused(what: str, got: str, where: object, expected: str) -> PromptError:
    return PromptError(what, expected=expected, got=got, where=where)
