"""Drawings of what a model does to a picture: right numbers of parts, true words, clear errors."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from lmcourse.errors import ConfigError
from lmcourse.teach.seeing import draw_attention, draw_features, draw_patches, draw_prompt, draw_tiles


@pytest.fixture
def rng() -> np.random.Generator:
    seed = secrets.randbits(40)
    print("seed", seed)
    return np.random.default_rng(seed)


def test_draw_patches_shows_the_whole_and_every_patch(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    drawing = draw_patches(pixels, 16)
    whole, cut = (np.asarray(axes.images[0].get_array()) for axes in drawing.figure.axes)
    assert (whole == pixels).all()
    assert cut.shape == (2 * 16 + 2, 3 * 16 + 2 * 2, 3), "two grey pixels between patches"
    assert (cut[18:34, 36:52] == pixels[16:32, 32:48]).all()
    assert "2 rows of 3 patches, 6 in all" in drawing.alt


def test_draw_patches_keeps_few_numbers_of_many_rows(rng: np.random.Generator) -> None:
    drawing = draw_patches(rng.integers(0, 256, (336, 336, 3), dtype=np.uint8), 14)
    numbers = [int(label.get_text()) for label in drawing.figure.axes[1].get_yticklabels()]
    assert numbers == list(range(0, 576, 48))


def test_draw_features_has_one_picture_a_stage(rng: np.random.Generator) -> None:
    drawing = draw_features({"pixels": rng.normal(size=(4, 12)), "tower": rng.normal(size=(4, 8))})
    assert [axes.images[0].get_array().shape for axes in drawing.figure.axes] == [(4, 12), (4, 8)]
    assert "pixels: 4 rows of 12 numbers and tower: 4 rows of 8 numbers" in drawing.alt


def test_draw_tiles_wants_a_full_grid(rng: np.random.Generator) -> None:
    tiles = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(3)]
    picture = rng.integers(0, 256, (16, 30, 3), dtype=np.uint8)
    assert len(draw_tiles(picture, tiles, (1, 2)).figure.axes) == 4
    with pytest.raises(ConfigError, match="do not fill"):
        draw_tiles(picture, tiles, (2, 2))


def test_draw_prompt_adds_up() -> None:
    drawing = draw_prompt([("words", 4), ("picture", 64), ("question", 7)])
    assert "75 tokens: words 4, picture 64 and question 7" in drawing.alt
    assert sum(bar.get_width() for bar in drawing.figure.axes[0].patches) == 75


def test_draw_attention_names_the_brightest_patch(rng: np.random.Generator) -> None:
    picture = np.full((32, 32, 3), 200, dtype=np.uint8)
    table = rng.random((4, 4)) * 0.1
    table[2, 3] = 1.0
    drawing = draw_attention(picture, {"red": table, "star": table.T})
    assert "“red” looks most at the patch in row 2, column 3" in drawing.alt
    shown = np.asarray(drawing.figure.axes[0].images[0].get_array())
    assert shown[20, 28].min() > 0.75 > 0.4 > shown[2, 2].max()


def test_draw_attention_stretches_a_grid_that_does_not_divide_the_picture(rng: np.random.Generator) -> None:
    table = np.zeros((24, 24))
    table[23, 0] = 1.0
    shown = np.asarray(draw_attention(np.full((128, 130, 3), 255), {"7": table}).figure.axes[0].images[0].get_array())
    assert shown.shape == (128, 130, 3)
    assert shown[127, 0].min() == 1.0 > 0.3 > shown[0, 129].max()


def test_drawings_refuse_what_is_no_colour_picture() -> None:
    with pytest.raises(ConfigError, match="colour"):
        draw_patches(np.zeros((8, 8)), 4)
