"""Is this answer still the stub? A function whose body does nothing but return None, or `...` itself.

Lesson: 9 (homework)
"""

from __future__ import annotations

import dis
import types
from typing import Any

__all__ = ["is_untried"]

_RETURNS_NOTHING = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}


def is_untried(answer: Any) -> bool:
    """Whether this is the stub: `...`, or a function whose body does nothing but return None."""
    if answer is ... or answer is None:
        return True
    if not isinstance(answer, types.FunctionType):
        return False
    steps = list(dis.get_instructions(answer))
    constants = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return {step.opname for step in steps} <= _RETURNS_NOTHING and constants in ([None], [...])
