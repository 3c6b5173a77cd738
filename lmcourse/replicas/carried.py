"""Orders that can be sent to another process: plain data, and a grammar's text where an order has a mask.

The front checks a grammar when the request comes, so that a bad one is refused there; the replica compiles it again.

Lesson: 5 (answers of a given form)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcourse.config import GenerationConfig
from lmcourse.engine import Order, TokenMask
from lmcourse.errors import LmcourseError
from lmcourse.serve.grammar import Grammar, Grammars

__all__ = ["CarriedGrammars", "CarriedMask", "CarriedOrder", "carry"]


@dataclass(frozen=True)
class CarriedOrder:
    """An Order with a grammar's rules instead of a mask."""

    prompt_ids: list[int]
    gen: dict[str, Any]
    stop_ids: list[int]
    grammar: Grammar | None = None
    account: str | None = None  # whose request it is


@dataclass(frozen=True)
class CarriedMask:
    """Stands for the mask that the replica makes of this grammar."""

    grammar: Grammar

    def allowed(self, output_ids: Sequence[int]) -> NDArray[np.bool_]:
        """Nobody samples in front."""
        raise LmcourseError("this mask is applied where the model runs", got=f"{len(output_ids)} tokens here")


class CarriedGrammars(Grammars):
    """Compiles a grammar to see that it can be had, and keeps its text."""

    async def compile(self, grammar: Grammar, *, where: str) -> Callable[[], TokenMask]:
        """As the parent's, for masks that travel."""
        await super().compile(grammar, where=where)
        return lambda: CarriedMask(grammar)


def carry(order: Order, gen: GenerationConfig) -> CarriedOrder:
    """The order with these settings, ready to be sent."""
    grammar = None
    if order.mask is not None:
        if not isinstance(order.mask, CarriedMask):
            raise LmcourseError("this mask cannot be sent to a replica", expected="a grammar", got=repr(order.mask))
        grammar = order.mask.grammar
    return CarriedOrder(list(order.prompt_ids), asdict(gen), sorted(order.stop_ids), grammar, order.account)
