"""Arranged weights give torch's own product, and come from nothing but float32 on a processor."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmcourse.kernels import Matrix, arrange_weight, project
from lmcourse.kernels.arranged import project_arranged

SHAPES = ((1, 1), (7, 33), (512, 256), (4096, 256), (92, 1031))


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 5, 16, 100, 257, 600])
@pytest.mark.parametrize("biased", [False, True])
def test_project_arranged_is_the_product(num_tokens, biased):
    for out_features, in_features in SHAPES:
        weight, x = torch.randn(out_features, in_features), torch.randn(num_tokens, in_features)
        bias = torch.randn(out_features) if biased else None
        exact = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
        with torch.inference_mode():
            arranged = Matrix(arrange_weight(weight), bias)
            found = project(x, arranged)
            plain = project_arranged(x, Matrix(weight, bias))
        assert arranged.shape == (out_features, in_features)
        for out in (found, plain):
            assert out.shape == (1, num_tokens, out_features)
            assert out.dtype == torch.float32
            torch.testing.assert_close(out[0].double(), exact, rtol=1e-5, atol=1e-5 * in_features**0.5)


def test_project_arranged_of_strided_tokens_is_the_product():
    weight, x = torch.randn(48, 64), torch.randn(5, 128)[:, ::2]
    with torch.inference_mode():
        found = project(x, Matrix(arrange_weight(weight)))[0]
    torch.testing.assert_close(found, x @ weight.t())


def test_arrange_weight_leaves_other_dtypes_and_what_is_arranged():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        weight = torch.randn(4, 8).to(dtype)
        assert arrange_weight(weight) is weight
    arranged = arrange_weight(torch.randn(4, 8))
    assert arrange_weight(arranged) is arranged


class RowsSeen(TorchDispatchMode):
    """Tokens of each product that oneDNN is given."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.mkldnn._linear_pointwise.default:
            self.counts.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))


def test_project_arranged_comes_in_few_sizes():
    """Each size that oneDNN meets costs half a megabyte for good, however many lengths of prompts there are."""
    matrix = Matrix(arrange_weight(torch.randn(4, 8)))
    assert matrix.weight.is_mkldnn
    lengths = [*range(1, 300), *torch.randint(300, 9000, (20,)).tolist()]
    with torch.inference_mode(), RowsSeen() as seen:
        for num_tokens in lengths:
            before = len(seen.counts)
            assert project(torch.randn(num_tokens, 8), matrix).shape == (1, num_tokens, 4)
            sizes = seen.counts[before:]
            assert num_tokens <= sum(sizes) <= num_tokens + max(7, num_tokens // 4)
    assert len(set(seen.counts)) <= 20
