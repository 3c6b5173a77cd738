from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from lmcourse.homework.compare import Close, describe, difference

ROWS = torch.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("expected", "got", "said"),
    [
        (12, 12.0, None),
        (12, torch.tensor(12), None),
        (0.3, 0.1 + 0.2, None),
        (0.3, 0.3001, "off by"),
        (10**15, 10**15 + 1, "off by"),
        (True, True, None),
        (True, torch.tensor(1) > 0, None),
        (True, 1, "True was expected"),
        (False, True, "False was expected"),
        (12, 10, "off by -2"),
        (1000, 2_001_000, r"off by \+2,000,000"),
        (12, True, "type bool"),
        (12, "12", "type str"),
        (12, float("nan"), "off by"),
        ("abc", "abc", None),
        ("abcd", "abxd", "first 2 characters agree; then 'cd' was expected and 'xd' came"),
        ("abc", "abcd", "first 3 characters agree; then '' was expected and 'd' came"),
        ("abc", None, "None"),
        ([1, 2], (1, 2), None),
        ([1, 2], torch.tensor([1, 2]), None),
        ([], [], None),
        ([1, 2, 3], [1, 9, 3], "item 1 differs: 2 was expected, 9 came"),
        ([1, 2, 3], [1, 2], "2 items instead of 3; the first 2 agree"),
        ([1, 2], 5, "type int; a list was expected"),
        (ROWS, ROWS.clone(), None),
        (ROWS, ROWS.T, r"shape \[3, 4\] instead of \[4, 3\]"),
        (ROWS, ROWS.double(), "dtype torch.float64"),
        (ROWS, "rows", "a tensor was expected"), (ROWS, ROWS.tolist(), None), (ROWS, ROWS.numpy(), None),
        (ROWS, list(ROWS), None), (ROWS, [[1.0], [2.0, 3.0]], "a tensor was expected"),
        (ROWS, ROWS.double().numpy(), "float64 instead of torch.float32"),
        ([1, 2], np.array([1, 2]), None), ([1, 2], np.array([1.0, 3.0]), "item 1 differs"),
        ([(1, 0.5), (0, 0.25)], np.array([[1.0, 0.5], [0.0, 0.25]]), None),
        (0.6439142598879724, 0.6439142, None), (0.6439142598879724, 0.64393, "off by"),
        (ROWS, ROWS + torch.tensor([[0.0], [0.0], [1.0], [0.0]]), "1 of 4 rows hold other values, the first .* row 2"),
        ((ROWS, ROWS), (ROWS, ROWS * 2), "item 1 differs"),
        ((ROWS, ROWS), ROWS, "a tuple was expected"),
        ({"a": [1]}, {"a": [1]}, None),
        ({"a": [1], "b": 2}, {"a": [1]}, "'b' is missing"),
        ({"a": [1]}, {"a": [1], "c": 3}, "'c' should not be there"),
        ({"a": [1]}, {"a": [2]}, r"at 'a' \[1\] was expected, \[2\] came"),
        ({"a": [1]}, [("a", [1])], "a dict was expected"),
        (Close(ROWS, 0.01), ROWS.double() + 0.1, None),
        (Close(ROWS, 0.01), Close(ROWS, 0.01), None),
        (Close(ROWS, 0.01), ROWS + 0.2, "off by up to 0.2"),
        (Close(ROWS, 0.01), ROWS * torch.nan, "NaN or infinity"),
        (Close(ROWS, 0.01), ROWS[:2], r"shape \[2, 3\] instead of \[4, 3\]"),
        (Close(ROWS, 0.01), 3, "a tensor was expected"),
    ],
)  # fmt: skip
def test_difference_says_where(expected: object, got: object, said: str | None) -> None:
    found = difference(expected, got)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(said, found), found


def test_describe_is_short() -> None:
    assert describe(1234567) == "1,234,567"
    assert describe(ROWS) == "a tensor of shape [4, 3], float32"
    assert describe((ROWS, ROWS)).count("shape") == 2
    assert len(describe("x" * 5000)) < 400
