"""tiny-llava's sizes: a vision transformer of four layers, a projector, a Llama of four; 4.9 million parameters."""

from __future__ import annotations

from dataclasses import dataclass

from lmcourse.zoo.checkpoint import Sizes

__all__ = ["EYE", "LANGUAGE", "EyeSizes"]


@dataclass(frozen=True)
class EyeSizes:
    """Everything that fixes the shapes of the vision transformer."""

    side: int = 128
    patch: int = 16
    width: int = 192
    num_layers: int = 4
    num_heads: int = 3
    intermediate: int = 768
    norm_eps: float = 1e-5

    @property
    def patches(self) -> int:
        return (self.side // self.patch) ** 2


EYE = EyeSizes()
LANGUAGE = Sizes(vocab=1024, num_layers=4, max_context=768)
