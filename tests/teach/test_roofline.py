"""A roofline's figures are min(peak, intensity · bandwidth), and its words say them."""

import pytest

from lmcourse.accounting import Device
from lmcourse.errors import ConfigError
from lmcourse.teach import attainable, roofline


def test_attainable_turns_at_the_corner():
    device = Device(bytes_per_second=10.0, flops_per_second=100.0)
    assert [attainable(device, x) for x in (1, 10, 100)] == [10, 100, 100]


def test_roofline_says_each_point_and_the_corner():
    drawing = roofline(Device(10.0, 100.0), {"decode": (1.0, 5.0), "prefill": (100.0, 90.0)}, title="Mine")
    assert "corner lies at 10 FLOPs per byte" in drawing.alt
    assert "decode" in drawing.alt
    assert "50 % of the roof" in drawing.alt
    assert "90 % of the roof" in drawing.alt
    assert drawing.png()[:4] == b"\x89PNG"


def test_roofline_refuses_points_that_cannot_be_drawn():
    with pytest.raises(ConfigError, match="above 0"):
        roofline(Device(10.0, 100.0), {"nothing": (0.0, 1.0)})
