"""show(): the 4-bit row kernel under Triton's interpreter, against float64, in a few lines for a lesson.

Run it in a process of its own with TRITON_INTERPRET=1, which Triton reads when it is imported.

Lesson: 4 (the kernel, line by line)
"""

from __future__ import annotations

import sys

__all__ = ["show"]


def show(rows: int = 16, columns: int = 256, group_size: int = 128) -> None:
    """Print what was multiplied and how near the kernel came; exact inputs are random but seeded."""
    import torch

    from lmcourse.kernels import PackedMatrix
    from lmcourse.kernels.packed import join_groups, pack_words, unpack_matrix
    from lmcourse.kernels.w4a16 import w4a16_rows

    generator = torch.Generator().manual_seed(4)
    q = torch.randint(0, 16, (rows, columns), generator=generator, dtype=torch.uint8)
    scales = torch.rand(rows, columns // group_size, generator=generator) * 0.02
    zeros = torch.randint(0, 16, (rows, columns // group_size), generator=generator)
    matrix = PackedMatrix(pack_words(q, group_size), join_groups(scales, zeros))
    x = torch.randn(1, columns, generator=generator).half()
    got = w4a16_rows(x, matrix)[0].double()
    want = x.double() @ unpack_matrix(matrix, torch.float64).t()
    error = float((got - want).norm() / want.norm())
    lines = (
        f"words {list(matrix.words.shape)}, groups {list(matrix.groups.shape)}, x {list(x.shape)}",
        f"relative error below 1e-3: {error < 1e-3}",
    )
    sys.stdout.write("\n".join(lines) + "\n")
