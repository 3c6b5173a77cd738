"""The smallest useful Triton kernel: doubles a vector in place. The doctor compiles it to see that the compiler works.

Import this file only where Triton is installed.

Lesson: 1 (doctor)
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

__all__ = ["compile_double"]


def _double(x_ptr, count, TILE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Program i doubles elements i * TILE and following of a vector of `count`."""
    offsets = tl.program_id(0) * TILE + tl.arange(0, TILE)
    mask = offsets < count
    tl.store(x_ptr + offsets, 2 * tl.load(x_ptr + offsets, mask=mask), mask=mask)


def compile_double(target: int) -> int:
    """Bytes of machine code for compute capability `target` / 10. Launches nothing, so it needs no GPU.

    JITFunction instead of @triton.jit: under TRITON_INTERPRET=1 the decorator would make an interpreted function.
    """
    signature = {"x_ptr": "*fp32", "count": "i32", "TILE": "constexpr"}
    source = ASTSource(fn=JITFunction(_double), signature=signature, constexprs={"TILE": 128})
    return len(triton.compile(source, target=GPUTarget("cuda", target, 32)).asm["cubin"])
