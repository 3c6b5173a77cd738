"""ModelSpec: everything that may differ between model families, as plain numbers and names of parts. No torch.

A family's row (models/families.py) turns a Hugging Face config into a ModelSpec; the one decoder (models/decoder.py),
the memory arithmetic (accounting.py) and the engine read nothing else about a model. Defaults are Llama's. A name
(`layer`, `norm`, `mlp`, `activation`, `scaling`) is a row of the table that the part's own file holds.

Lesson: 2 (what a format holds)
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ExpertSpec", "ModelSpec", "RotarySpec"]


@dataclass(frozen=True)
class RotarySpec:
    """How positions turn into angles (RoFormer, arXiv 2104.09864 §3.4); the rules of scaling are in kernels/angles.py.

    scaling is None, "linear", "dynamic", "stepped" (QWen's dynamic), "llama3" or "yarn".
    """

    base: float = 10000.0  # config key rope_theta
    scaling: str | None = None
    factor: float = 1.0
    trained_context: int = 2048  # tokens; what the scaling rules measure lengths by
    fraction: float = 1.0  # of each head's features that turn; 0: none do, and alibi_slopes tell distances
    slow_turns: float = 1.0  # llama3, yarn: pairs that turn less often than this in trained_context are slowed
    fast_turns: float = 4.0  # those that turn more often are left as trained
    amplitude: float = 1.0  # cos and sin are multiplied by it

    def turned(self, head_dim: int) -> int:
        """Features of a head that turn."""
        return int(head_dim * self.fraction)

    @property
    def follows_length(self) -> bool:
        """Whether a token's angles depend on the length of its prompt, and not on its position alone."""
        return self.scaling in ("dynamic", "stepped")


@dataclass(frozen=True)
class ExpertSpec:
    """A mixture of experts in the place of a layer's MLP (arXiv 1701.06538); all have the gated form."""

    count: int  # experts that a router chooses from
    chosen: int  # by each token
    intermediate: int  # of one expert
    renormalise: bool = False  # the chosen shares are divided by their sum
    scale: float = 1.0  # and multiplied by this
    shared_intermediate: int = 0  # of what every token takes besides; 0: nothing
    shared_gate: bool = False  # its share is sigmoid(one more logit), not 1
    dense_layers: tuple[int, ...] = ()  # numbers of layers that have a plain MLP

    @property
    def num_shared(self) -> int:
        """Experts of the common width that the shared one is cut into; the last may be padded."""
        return -(-self.shared_intermediate // self.intermediate)

    @property
    def total(self) -> int:
        """Experts that are stored, shared ones last."""
        return self.count + self.num_shared

    @property
    def slots(self) -> int:
        """Experts that a token takes."""
        return self.chosen + self.num_shared


@dataclass(frozen=True)
class ModelSpec:
    """The shape of one decoder-only transformer. Counts are of elements, not bytes."""

    family: str  # the layout's model_type in models/families.py: llama, internlm2, …
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
    experts: ExpertSpec | None = None  # None: every layer has an MLP
    bos_id: int | None = 1
    eos_ids: tuple[int, ...] = (2,)  # from config and generation_config; a chat template adds its own stop ids
    pad_id: int | None = None
    dtype: str = "float16"  # of the stored weights
    layer: str = "sequential"  # or "parallel", "parallel_one_norm", "pictured" (models/decoder.py)
    norm: str = "rms"  # or "layer" (layers/norm.py)
    norm_bias: bool = False
    wide_norms: bool = False  # norm weights stay float32 in any dtype: Gemma's are 1 + what is stored
    mlp: str = "gated"  # or "plain" (layers/mlp.py)
    activation: str = "silu"  # or "gelu", "gelu_tanh" (layers/mlp.py)
    embedding_scale: float = 1.0  # embeddings are multiplied by it
    clip_qkv: float | None = None  # queries, keys and values are clamped to ± this before they are turned
    alibi_slopes: tuple[float, ...] = ()  # per query head: what a score loses per token of distance (2108.12409)
    window: int | None = None  # tokens that a token attends to, itself among them; None: all before it
    picture_rank: int = 0  # of what the "pictured" layer adds to its matrices' products, at tokens of pictures
    logn_context: int | None = None  # the query of the i-th token is multiplied by log(i) / log(this) where i is more

    @property
    def queries_per_kv(self) -> int:
        """Query heads that share one key/value head (grouped-query attention, arXiv 2305.13245)."""
        return self.num_heads // self.num_kv_heads
