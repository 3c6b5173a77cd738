"""ModelSpec: everything that may differ between model families, as plain numbers. No torch.

A family's row (models/families.py) turns a Hugging Face config into a ModelSpec; the one decoder (models/decoder.py),
the memory arithmetic (accounting.py) and the engine read nothing else about a model.

Lesson: 2 (what a format holds)
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelSpec", "RotarySpec"]


@dataclass(frozen=True)
class RotarySpec:
    """How positions turn into angles (RoFormer, arXiv 2104.09864 §3.4).

    scaling is None, "linear" (positions divided by factor) or "dynamic" (NTK-aware: beyond trained_context the base
    grows with the length of the sequence, transformers' `rope_type: dynamic`).
    """

    base: float = 10000.0  # config key rope_theta
    scaling: str | None = None
    factor: float = 1.0
    trained_context: int = 2048  # tokens; where dynamic scaling starts


@dataclass(frozen=True)
class ModelSpec:
    """The shape of one decoder-only transformer. Counts are of elements, not bytes."""

    family: str  # the layout's model_type in models/families.py: llama, internlm2
    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_context: int  # tokens; config key max_position_embeddings
    norm_eps: float = 1e-5
    rotary: RotarySpec = RotarySpec()
    qkv_bias: bool = False
    output_bias: bool = False  # bias of the attention's output projection
    mlp_bias: bool = False
    tie_embeddings: bool = False
    bos_id: int | None = 1
    eos_ids: tuple[int, ...] = (2,)  # from config and generation_config; a chat template adds its own stop ids
    pad_id: int | None = None
    dtype: str = "float16"  # of the stored weights

    @property
    def queries_per_kv(self) -> int:
        """Query heads that share one key/value head (grouped-query attention, arXiv 2305.13245)."""
        return self.num_heads // self.num_kv_heads
