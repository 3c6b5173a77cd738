"""Source code as lessons show it: a kernel's stages, cut at its own comments, so that text and code cannot part.

    def _decode_kernel(...):
        # which tile am I: …      → stages[0]
        # load: …                 → stages[1]
        # compute: …              → stages[2]
        # store                   → stages[3]

Lesson: 3 (the kernel)
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from lmcourse.errors import ConfigError

__all__ = ["Listing", "kernel_stages"]

_STAGE = re.compile(r"^    # ", re.MULTILINE)


class Listing(str):
    """Python code that a notebook shows in colours and a terminal as it is."""

    __slots__ = ()

    def __add__(self, other: str) -> Listing:
        return Listing(f"{self}\n{other}")

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}\n```"


def kernel_stages(kernel: Any) -> tuple[Listing, ...]:
    """The stages of a Triton kernel (or of any function with comments at the first level), signature left out."""
    function = getattr(kernel, "fn", kernel)
    source = inspect.getsource(function)
    starts = [match.start() for match in _STAGE.finditer(source)]
    if not starts:
        raise ConfigError("this function has no commented stages", got=getattr(function, "__name__", repr(function)))
    pieces = [source[start:stop] for start, stop in zip(starts, [*starts[1:], None], strict=True)]
    return tuple(Listing(textwrap.dedent(piece).rstrip()) for piece in pieces)
