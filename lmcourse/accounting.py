"""What a model costs, from its spec alone: bytes, FLOPs and the roofline time of a step. No torch, no measuring.

    weights      embedding + num_layers · layer + final norm + head
    KV cache     2 (key and value) · num_layers · num_kv_heads · head_dim elements per token
    decode       every weight but the embedding table is read once per step, and each request's cache once
    prefill      2 FLOPs per weight and token, plus attention's triangle, plus one row of logits
    experts      only those that some token of the step chose are read, only those that a token chose multiply it

A step takes at least as long as its bytes need at the device's bandwidth, and as its FLOPs need at its peak. Units are
bytes, seconds and FLOPs (a multiply and an add are two).

Lesson: 2 (predict, then measure), 3 (what the cache costs)
"""

from __future__ import annotations

from dataclasses import dataclass

from lmcourse.spec import ModelSpec

__all__ = [
    "Device",
    "ParameterCount",
    "Storage",
    "count_decode_flops",
    "count_kv_block_bytes",
    "count_kv_bytes_per_token",
    "count_parameters",
    "count_prefill_flops",
    "count_streamed_bytes",
    "count_weight_bytes",
    "decode_seconds",
    "prefill_seconds",
]


@dataclass(frozen=True)
class ParameterCount:
    """Elements by what happens to them in a step: gathered, multiplied in the layers, normed, multiplied at the end."""

    embedding: int
    body: int  # matrices of all layers
    vectors: int  # norms and biases of all layers, and the final norm
    head: int  # 0 when it is the embedding's table
    pictured: int = 0  # what tokens of pictures take besides, and no decode step reads

    @property
    def total(self) -> int:
        """As a model card states it."""
        return self.embedding + self.body + self.vectors + self.head + self.pictured


@dataclass(frozen=True)
class Storage:
    """Bytes per element of what is stored; the defaults are float16 throughout.

    4-bit weights in groups of 128 with a float16 scale and a 4-bit zero are (4 + 16/128 + 4/128) / 8 = 0.5195 bytes.
    """

    body_bytes: float = 2
    head_bytes: float = 2
    vector_bytes: float = 2
    embedding_bytes: float = 2
    kv_bytes: float = 2
    kv_scale_bytes: float = 0  # scale and zero of one token's head, where keys and values are quantised


@dataclass(frozen=True)
class Device:
    """A device's two limits, as measured on it or as its maker states them."""

    bytes_per_second: float
    flops_per_second: float


def count_parameters(spec: ModelSpec) -> ParameterCount:
    """Exact counts; they add up to the elements in the decoder's weights."""
    q_rows, kv_rows = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    attention = spec.hidden * (q_rows + 2 * kv_rows) + q_rows * spec.hidden
    into_mlp, from_mlp = _mlp_features(spec)
    experts, routers = _expert_elements(spec)
    norm = spec.hidden * (2 if spec.norm_bias else 1)
    vectors = norm * (1 if spec.layer == "parallel_one_norm" else 2)
    vectors += spec.qkv_bias * (q_rows + 2 * kv_rows) + spec.output_bias * spec.hidden
    vectors += spec.mlp_bias * (into_mlp + spec.hidden)
    pairs = 5 * spec.hidden + 3 * spec.intermediate + 2 * (q_rows + kv_rows)  # qkv, output, gate, up, down: both sides
    table = spec.vocab * spec.hidden
    return ParameterCount(
        embedding=table,
        body=spec.num_layers * attention
        + (spec.num_layers - _expert_layers(spec)) * spec.hidden * (into_mlp + from_mlp)
        + _expert_layers(spec) * ((spec.experts.total if spec.experts else 0) * experts + routers),
        vectors=spec.num_layers * vectors + norm,
        head=0 if spec.tie_embeddings else table,
        pictured=spec.num_layers * spec.picture_rank * pairs,
    )


def count_weight_bytes(spec: ModelSpec, storage: Storage = Storage()) -> float:
    """Memory that the weights take."""
    parameters = count_parameters(spec)
    beside = parameters.embedding * storage.embedding_bytes + parameters.pictured * 2
    return beside + _matrix_bytes(spec, storage, tied=False)


def count_streamed_bytes(spec: ModelSpec, storage: Storage = Storage(), *, batch: int | None = None) -> float:
    """Weights read by each decode step: all but the embedding table, of which one row per token is read.

    A tied table counts, since the logits need all of it. Of experts those count that `batch` tokens reach on average if
    all are as likely; None: all.
    """
    idle = 0.0 if batch is None else _idle_elements(spec, batch)
    return _matrix_bytes(spec, storage, tied=spec.tie_embeddings) - idle * storage.body_bytes


def count_kv_bytes_per_token(spec: ModelSpec, storage: Storage = Storage()) -> float:
    """KV cache for one token of one request, all layers."""
    per_head = spec.head_dim * storage.kv_bytes + storage.kv_scale_bytes
    return 2 * spec.num_layers * spec.num_kv_heads * per_head


def count_kv_block_bytes(spec: ModelSpec, tokens_per_block: int, storage: Storage = Storage()) -> float:
    """KV cache that one block number stands for, all layers."""
    return tokens_per_block * count_kv_bytes_per_token(spec, storage)


def count_decode_flops(spec: ModelSpec, context: int) -> int:
    """One token of one request whose cache holds `context` tokens."""
    return 2 * _multiplied(spec) + 4 * spec.num_layers * spec.num_heads * spec.head_dim * context


def count_prefill_flops(spec: ModelSpec, num_tokens: int) -> int:
    """A prompt from nothing: causal attention is half a square, and only the last row's logits are computed."""
    parameters = count_parameters(spec)
    attention = 2 * spec.num_layers * spec.num_heads * spec.head_dim * num_tokens**2
    used = parameters.body - int(_idle_elements(spec, 1))
    return 2 * used * num_tokens + attention + 2 * (_multiplied(spec) - used)


def decode_seconds(
    spec: ModelSpec, device: Device, *, batch: int = 1, context: int = 0, storage: Storage = Storage()
) -> float:
    """Least time of a decode step for `batch` requests of `context` cached tokens each."""
    num_bytes = count_streamed_bytes(spec, storage, batch=batch) + batch * context * count_kv_bytes_per_token(
        spec, storage
    )
    return max(num_bytes / device.bytes_per_second, batch * count_decode_flops(spec, context) / device.flops_per_second)


def prefill_seconds(spec: ModelSpec, device: Device, *, num_tokens: int, storage: Storage = Storage()) -> float:
    """Least time to compute a prompt: weights are read once, the rest is arithmetic."""
    num_bytes = count_streamed_bytes(spec, storage, batch=num_tokens) + num_tokens * count_kv_bytes_per_token(
        spec, storage
    )
    return max(num_bytes / device.bytes_per_second, count_prefill_flops(spec, num_tokens) / device.flops_per_second)


def _multiplied(spec: ModelSpec) -> int:
    """Weights that one token is multiplied by."""
    return count_parameters(spec).body - int(_idle_elements(spec, 1)) + spec.vocab * spec.hidden


def _mlp_features(spec: ModelSpec) -> tuple[int, int]:
    """Of a plain layer's MLP: rows of what leads into its middle, columns of what leads out."""
    return spec.intermediate * (2 if spec.mlp == "gated" else 1), spec.intermediate


def _expert_layers(spec: ModelSpec) -> int:
    return 0 if spec.experts is None else spec.num_layers - len(spec.experts.dense_layers)


def _expert_elements(spec: ModelSpec) -> tuple[int, int]:
    """(of one expert, of one layer's router)."""
    if spec.experts is None:
        return 0, 0
    return 3 * spec.hidden * spec.experts.intermediate, spec.hidden * (spec.experts.count + spec.experts.shared_gate)


def _idle_elements(spec: ModelSpec, tokens: int) -> float:
    """Of experts that none of so many tokens chose: each token leaves an expert out with 1 - chosen / count."""
    if spec.experts is None:
        return 0.0
    left_out = (1 - spec.experts.chosen / spec.experts.count) ** tokens
    return _expert_layers(spec) * spec.experts.count * left_out * _expert_elements(spec)[0]


def _matrix_bytes(spec: ModelSpec, storage: Storage, *, tied: bool) -> float:
    """Everything but the embedding, or with it where it does the head's work."""
    parameters = count_parameters(spec)
    table = parameters.embedding * storage.embedding_bytes if tied else parameters.head * storage.head_bytes
    return parameters.body * storage.body_bytes + parameters.vectors * storage.vector_bytes + table
