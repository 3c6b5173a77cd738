"""Which form runs."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels.dispatch import Operation, check_shape


def test_form_for_falls_back_to_the_reference():
    operation = Operation(reference=lambda: "reference", by_device={"cuda": lambda: "faster"})
    assert operation.form_for(torch.device("cpu"))() == "reference"
    assert operation.form_for(torch.device("cuda", 1))() == "faster"


def test_check_shape_says_both_shapes():
    check_shape("x", torch.zeros(2, 3), (2, 3))
    with pytest.raises(ValueError, match=r"x has the wrong shape\n  expected: \[2, 4\]\n  got: \[2, 3\]"):
        check_shape("x", torch.zeros(2, 3), (2, 4))
