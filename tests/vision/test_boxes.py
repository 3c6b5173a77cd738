"""Boxes as Qwen-VL writes them: what is read, what is left, and what is drawn where."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lmcourse.errors import PromptError
from lmcourse.vl import Box, draw_boxes, find_boxes, without_marks

SIZE = (640, 480)


def test_one_box_in_pixels():
    (box,) = find_boxes("<ref>the cat</ref><box>(120,250),(480,760)</box> sleeps", SIZE)
    assert (box.name, box.pixels) == ("the cat", pytest.approx((76.8, 120, 307.2, 364.8)))


def test_boxes_of_one_name_and_of_none():
    text = (
        "<ref> 苹果 </ref><box>(0,0),(10,20)</box><box>(30,40),(999,1000)</box>, then <box>(5,6),(7,8)</box>"
        "<ref>b</ref> is <box>(1,1),(2,2)</box>"
    )
    assert [box.name for box in find_boxes(text, SIZE)] == ["苹果", "苹果", "", ""]
    assert find_boxes(text, (1000, 1000))[1].pixels == pytest.approx((30, 40, 999, 1000))


def test_quadrangles_and_reversed_corners():
    text = "<ref>sign</ref><quad>(500,100),(900,200),(850,400),(450,300)</quad><box>(800,900),(100,200)</box>"
    quad, box = find_boxes(text, (1000, 2000))
    assert (len(quad.corners), quad.pixels) == (4, pytest.approx((450, 200, 900, 800)))
    assert box.pixels == pytest.approx((100, 400, 800, 1800))


@pytest.mark.parametrize(
    "text",
    [
        "", "no box", "<box>", "<box></box>", "<box>(1,2)</box>", "<box>(1,2),(3,4)", "<box>(a,2),(3,4)</box>",
        "<box>(1,2),(3,-4)</box>", "(1,2),(3,4)", "<box>(1,2),(3,4),(5,6)</box>", "<quad>(1,2),(3,4)</quad>",
        "<box>(12345,2),(3,4)</box>",
    ],
)  # fmt: skip
def test_what_is_malformed_is_no_box(text):
    assert find_boxes(text, SIZE) == []
    assert without_marks(text) == text


def test_an_open_name_does_not_swallow_the_next():
    text = "<ref>lost <ref>found</ref><box>(1,2),(3,4)</box>"
    assert [box.name for box in find_boxes(text, SIZE)] == ["found"]


def test_beyond_the_edge_is_the_edge():
    assert find_boxes("<box>(0,0),(1500,9999)</box>", SIZE)[0].pixels == (0, 0, 640, 480)


def test_long_answers_are_read_in_linear_time():
    assert find_boxes("<ref>" * 20_000 + "<box>(1,2)," * 20_000, SIZE) == []


@pytest.mark.parametrize("size", [(0, 5), (5,), (640, -1)])
def test_a_size_that_is_none_is_an_error(size):
    with pytest.raises(PromptError, match="size"):
        find_boxes("<box>(1,2),(3,4)</box>", size)


def test_text_without_marks_reads_on():
    assert without_marks("<ref>a dog</ref><box>(1,2),(3,4)</box> runs") == "a dog runs"


def test_drawn_frames_lie_on_the_boxes_and_the_picture_stays():
    picture = Image.new("RGB", (200, 100), "white")
    drawn = np.asarray(draw_boxes(picture, "<box>(250,200),(750,800)</box>"))
    coloured = np.argwhere((drawn != 255).any(-1))
    assert coloured.min(0).tolist() == [20, 50]
    assert coloured.max(0).tolist() == [80, 150]
    assert (drawn[40:60, 70:130] == 255).all()
    assert np.asarray(picture).min() == 255


def test_names_are_written_even_at_the_top_and_in_any_mode():
    picture = Image.new("L", (300, 200), 255)
    plain = np.asarray(draw_boxes(picture, [Box("", ((10, 2), (90, 90)))]))
    named = np.asarray(draw_boxes(picture, [Box("cat", ((10, 2), (90, 90)))]))
    assert named.shape == (200, 300, 3)
    assert (plain != named).sum() > 100
    assert np.array_equal(np.asarray(draw_boxes(picture, "nothing"))[..., 0], np.asarray(picture))
