"""The explorer's rows are what rounding does, and pictures name every place."""

import pytest
import torch

from lmcourse.errors import ConfigError
from lmcourse.quant import AWQ_ORDER
from lmcourse.teach import explore_rounding, packing_picture, round_at


def test_round_at_fewer_bits_larger_error_smaller_size():
    torch.manual_seed(int(torch.randint(2**31, ()).item()))
    weight = torch.randn(16, 256)
    rows = [round_at(weight, bits, 128) for bits in (2, 3, 4, 8)]
    errors = [row.relative_error for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert rows[2].bits_per_weight == pytest.approx(4 + 20 / 128)
    assert "4.16 bits a weight" in str(rows[2])


def test_explore_rounding_offers_every_combination_and_words():
    stepper = explore_rounding(torch.randn(8, 128), bits=(3, 4), group_sizes=(32, 128))
    assert len(stepper.positions) == 4
    drawing = stepper.drawing("4 bits, groups of 128")
    assert "4 bits in groups of 128" in drawing.alt
    assert drawing.png()[:4] == b"\x89PNG"


def test_explore_rounding_without_choices_is_an_error():
    with pytest.raises(ConfigError, match="nothing to choose"):
        explore_rounding(torch.randn(8, 128), bits=())


def test_packing_picture_names_every_nibble():
    drawing = packing_picture(AWQ_ORDER, title="A word")
    assert "bits 4 to 7 hold number 2" in drawing.alt
    with pytest.raises(ConfigError, match="once"):
        packing_picture((0, 0, 1, 2, 3, 4, 5, 6), title="wrong")
