"""The decoder: every kind of picture becomes 8-bit RGB; everything else one clear error."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lmcourse.errors import PromptError
from lmcourse.vl import load_image

RAMP = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)  # unlike itself in every orientation


def as_file(picture: Image.Image, kind: str = "PNG", **settings) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1))


def pixels(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def png_of_size(width: int, height: int) -> bytes:
    """A few bytes that promise a picture of this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_every_way_in_gives_the_same_pixels(tmp_path) -> None:
    content = as_file(rgb())
    path = tmp_path / "a picture.png"
    path.write_bytes(content)
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    for source in (rgb(), np.asarray(rgb()), content, bytearray(content), path, str(path), path.as_uri(), url):
        assert np.array_equal(pixels(load_image(source)), pixels(rgb())), source


def test_greyscale_palette_and_one_bit() -> None:
    grey = Image.fromarray(RAMP)
    assert np.array_equal(pixels(load_image(as_file(grey))), np.stack([RAMP] * 3, axis=-1))
    palette = rgb().quantize(16)
    assert np.array_equal(pixels(load_image(as_file(palette))), pixels(palette.convert("RGB")))
    assert set(np.unique(pixels(load_image(as_file(grey.convert("1")))))) <= {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(kind) -> None:
    deep = (RAMP.astype(np.uint16) << 8) + 200
    picture = Image.fromarray(deep)
    assert np.array_equal(pixels(load_image(as_file(picture, kind))), np.stack([RAMP] * 3, axis=-1))


def test_transparency_is_laid_on_white() -> None:
    clear = np.dstack([np.asarray(rgb()), np.where(RAMP < 120, 0, 255).astype(np.uint8)])
    shown = pixels(load_image(as_file(Image.fromarray(clear))))
    assert (shown[RAMP < 120] == 255).all()
    assert np.array_equal(shown[RAMP >= 120], np.asarray(rgb())[RAMP >= 120])
    with_colour = as_file(rgb().quantize(8), transparency=0)
    assert pixels(load_image(with_colour)).shape == (12, 20, 3)


def test_first_frame_of_an_animation() -> None:
    others = [Image.new("RGB", (20, 12), "red"), Image.new("RGB", (20, 12), "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        first = Image.new("RGB", (20, 12), "white")
        moving = as_file(first, kind, save_all=True, append_images=others, duration=50)
        assert (pixels(load_image(moving)) >= 250).all(), kind


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_picture_is_turned_as_exif_says(orientation, turn) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = pixels(load_image(as_file(rgb(), "PNG", exif=exif)))
    assert np.array_equal(turned, np.rot90(pixels(rgb()), turn))
    # a PIL picture that was opened from a file is turned, too
    opened = Image.open(io.BytesIO(as_file(rgb(), "PNG", exif=exif)))
    assert np.array_equal(pixels(load_image(opened)), turned)


def test_long_pictures_are_made_smaller() -> None:
    assert load_image(Image.new("RGB", (20000, 10))).size == (8192, 4)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (png_of_size(60000, 60000), "too large"),
        (png_of_size(9000, 9000), "too large"),
        (png_of_size(0, 10), "not a picture"),
        (png_of_size(4000, 4000), "damaged or incomplete"),
        (as_file(rgb())[:60], "damaged or incomplete"),
        (as_file(Image.effect_noise((200, 200), 90).convert("RGB"), "JPEG")[:2000], "damaged or incomplete"),
        (b"", "not a picture"),
        (b"GIF89a", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        ("data:image/png;base64,####", "base64"),
        ("data:image/png,abc", "data: URL"),
        ("data:text/html;base64,aGk=", "holds no picture"),
        ("data:image/png;base64," + "A" * 50 * 2**20, "too big"),
        ("no such file.png", "no picture"),
        ("ftp://host/picture.png", "may not be opened"),
        ("http://", "URL"),
        ("/dev/zero", "no picture"),
        (np.zeros((4, 4), dtype=np.float32), "not a picture"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "not a picture"),
        (Image.new("F", (3, 3)), "floating-point"),
        (Image.new("RGB", (0, 3)), "empty"),
        (None, "not a picture"),
        (3, "not a picture"),
    ],
    ids=range(24),
)
def test_what_is_no_picture_is_one_error(source, what) -> None:
    with pytest.raises(PromptError) as caught:
        load_image(source)
    assert what in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_damaged_files_never_fail_otherwise() -> None:
    """Any byte of a file may be wrong."""
    rng = np.random.default_rng()
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        content = as_file(rgb(), kind)
        for _ in range(60):
            spoiled = np.frombuffer(content, dtype=np.uint8).copy()
            places = rng.integers(0, len(spoiled), rng.integers(1, 6))
            spoiled[places] = rng.integers(0, 256, len(places))
            try:
                assert load_image(spoiled.tobytes()).mode == "RGB"
            except PromptError:
                continue


def test_over_the_network_nothing_of_this_machine_is_opened(tmp_path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(as_file(rgb()))
    for source in (str(path), path.as_uri(), f"file:{path}", "~/secret.png"):
        with pytest.raises(PromptError, match="may not be opened"):
            load_image(source, over_network=True)
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    assert load_image(url, over_network=True).size == (20, 12)
