"""4-bit weights as a processor reads them: the very numbers of the bits, and their product, at any shape."""

from __future__ import annotations

import pytest
import torch

from lmcourse.kernels import PackedMatrix, arrange_packed, project
from lmcourse.kernels.moe_experts import expert_of
from lmcourse.kernels.packed import join_groups, pack_words, unpack_matrix

SHAPES = ((1, 8, 8), (5, 48, 16), (7, 96, 32), (50, 192, 64), (92, 256, 128), (33, 1024, 256), (1100, 384, 128))


@pytest.fixture
def made():
    """(matrix, its weight in float64) of so many rows and columns, with a group size."""
    seed = int(torch.randint(1 << 30, ()))
    print("seed", seed)
    generator = torch.Generator().manual_seed(seed)

    def make(rows, columns, size, *, biased=False):
        q = torch.randint(0, 16, (rows, columns), generator=generator, dtype=torch.uint8)
        zeros = torch.randint(0, 16, (rows, columns // size), generator=generator)
        scales = ((torch.rand(rows, columns // size, generator=generator) - 0.3) * 0.02).half()
        bias = torch.randn(rows, generator=generator) if biased else None
        exact = (q.double().view(rows, -1, size) - zeros[..., None]) * scales.double()[..., None]
        return PackedMatrix(pack_words(q, size), join_groups(scales, zeros), bias), exact.view(rows, columns)

    return make


@pytest.mark.parametrize("shape", SHAPES)
def test_arrange_packed_keeps_every_weight(shape, made):
    matrix, exact = made(*shape)
    arranged = arrange_packed(matrix)
    assert arranged.in_bags
    assert (arranged.shape, arranged.group_size) == (matrix.shape, matrix.group_size) == (shape[:2], shape[2])
    assert unpack_matrix(arranged, torch.float32).equal(exact.float())
    assert unpack_matrix(arranged, torch.float16).equal(exact.float().half())
    assert arrange_packed(arranged) is arranged


@pytest.mark.parametrize("num_tokens", [0, 1, 3, 16, 65])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)]
)
def test_project_in_bags_is_the_product(num_tokens, dtype, tolerance, made):
    for biased, shape in enumerate(SHAPES):
        matrix, exact = made(*shape, biased=bool(biased % 2))
        bias = None if matrix.bias is None else matrix.bias.to(dtype)
        x = torch.randn(num_tokens, shape[1]).to(dtype)
        want = x.double() @ exact.t() + (0 if bias is None else bias.double())
        sizes = x.double().abs() @ exact.abs().t() + (0 if bias is None else bias.double().abs())  # summands may cancel
        for form in (matrix, arrange_packed(matrix)):
            found = project(x, form._replace(bias=bias))
            assert (found.shape, found.dtype) == ((1, num_tokens, shape[0]), dtype)
            assert ((found[0] - want).abs() <= tolerance * sizes + 1e-6).all()
        assert project(x, arrange_packed(matrix)._replace(bias=bias), torch.float32).dtype is torch.float32


def test_expert_of_bags_is_its_rows(made):
    matrix, exact = made(24, 64, 32)
    for number in range(4):
        part = expert_of(arrange_packed(matrix), number, 4)
        assert unpack_matrix(part, torch.float32).equal(exact.float()[6 * number : 6 * number + 6])


def test_arrange_packed_takes_little_more_than_the_words(made):
    matrix, _ = made(256, 1024, 128)
    before, after = (form.words.nbytes + form.groups.nbytes for form in (matrix, arrange_packed(matrix)))
    assert (before * 8, after * 8) == (4.25 * 256 * 1024, 4.5 * 256 * 1024)
