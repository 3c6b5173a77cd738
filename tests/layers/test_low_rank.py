"""What is added to a matrix for some tokens."""

from __future__ import annotations

import pytest
import torch

from lmcourse.layers import LowRank


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_low_rank_is_the_product_of_each_pair(pairs) -> None:
    print(f"seed {torch.seed()}")
    low_rank = LowRank(11, pairs * 5, 4, pairs=pairs)
    for factor in (low_rank.reduce, low_rank.expand):
        factor.weight.data.normal_()
    x = torch.randn(7, 11)
    narrow, wide = low_rank.reduce.weight.chunk(pairs), low_rank.expand.weight.chunk(pairs)
    wanted = torch.cat([x @ a.T @ b.T for a, b in zip(narrow, wide, strict=True)], dim=1)
    torch.testing.assert_close(low_rank(x), wanted)
    assert low_rank(x[:0]).shape == (0, pairs * 5)
    assert f"11 -> 4 -> {pairs * 5}, pairs={pairs}" in repr(low_rank)
