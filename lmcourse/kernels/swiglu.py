"""SwiGLU: y = silu(gate) · up, with silu(g) = g / (1 + exp(-g)) (arXiv 2002.05202 §2).

The MLP's first matrix gives two vectors per token, side by side; one opens or closes the other.

    gate_up   [ gate 0 … I-1 | up 0 … I-1 ]   →   y [ 0 … I-1 ]

Traffic, one token of InternLM2-1.8B (intermediate 8192, 2 bytes): read 32 KiB, write 16 KiB; as two operations the
product of the activation is written and read once more, 80 KiB in all.

Numerics: float32 inside, rounded once.

Lesson: 2 (inside one layer)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu

from lmcourse.kernels.dispatch import Operation

__all__ = ["swiglu", "swiglu_reference"]


def swiglu_reference(gate_up: Tensor) -> Tensor:
    """The formula, in float32."""
    gate, up = gate_up.chunk(2, dim=-1)
    return (silu(gate.float()) * up.float()).to(gate_up.dtype)


_SWIGLU = Operation(reference=swiglu_reference)


def swiglu(gate_up: Tensor) -> Tensor:
    """gate_up: [..., 2 * intermediate] → [..., intermediate]; ValueError if the last axis is odd."""
    if gate_up.shape[-1] % 2:
        raise ValueError(
            f"swiglu needs gate and up of equal width\n  expected: an even number\n  got: {gate_up.shape[-1]}"
        )
    return _SWIGLU.form_for(gate_up.device)(gate_up)
