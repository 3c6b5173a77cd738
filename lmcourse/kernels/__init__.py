"""The operations of one transformer step, one file each: formula, traffic, picture, reference, Triton form, wrapper.

A layer is five operations:

    norm_qkv.py           norm_qkv            norm → q, k, v → rotate → keys and values into the cache
    attention.py          ragged_attention    attend through block tables; Triton forms in decode_attention.py and
                                              prefill_attention.py
    project.py            project             the output matrix
    norm_gate_up.py       norm_gate_up        norm → gate and up → SwiGLU
    project.py            project             the down matrix

composed, where it is faster that way, of

    add_norm.py           add_norm            sum and normalise the residual stream
    rotate_write.py       rotate_write        rotate and write to the cache: rotary.py's rotate, kv_write.py's write_kv
    angles.py             angles              cos and sin of a step's positions, once for all layers
    swiglu.py             swiglu              the gated activation of the MLP
    gelu.py               gelu, geglu         those of other families; norm_up.py: a norm, a matrix and a GELU
    rms_norm.py           rms_norm, add_rms_norm   the norm by itself
    arranged.py           arrange_weight      weights as a processor's library reads them

a mixture of experts in the place of an MLP:

    moe_route.py          route               which experts a token takes; plan_tiles sorts tokens by expert
    moe_experts.py        run_experts         the experts' gate and up, SwiGLU, down; many tokens: moe_tiles.py

between the GPUs that share a model:

    rank_sum.py           rank_sum            the sum of what every rank has, through each other's memory

around the layers of a recorded step:

    advance.py            advance             a batch of decodes moves on by itself: token, position, slot
    sampling.py           argmax              the likeliest token
    draw.py               draw                temperature, top-k, top-p, min-p without a sort

to make weights small:

    round_columns.py      round_columns       rounding whose errors later columns take over

and what they share: operands.py (Matrix, PackedMatrix, Norm, Rotation, Reach, Stream), packed.py (4-bit weights),
packed_bags.py (the same for a processor), ragged.py (RaggedBatch, LayerKV), reach.py (scores and distance),
packed_kv.py (PackedKV: int8 and int4), kv_tiles.py (tiles of either cache), dispatch.py (which form runs), lang.py
(Triton, where there is one).
"""

from lmcourse.kernels.add_norm import add_norm
from lmcourse.kernels.angles import angles
from lmcourse.kernels.arranged import arrange_weight
from lmcourse.kernels.attention import ragged_attention
from lmcourse.kernels.gelu import geglu, geglu_tanh, gelu, gelu_tanh
from lmcourse.kernels.kv_write import write_kv
from lmcourse.kernels.moe_experts import run_experts
from lmcourse.kernels.moe_route import Routing, route
from lmcourse.kernels.norm_gate_up import norm_gate_up
from lmcourse.kernels.norm_qkv import norm_qkv
from lmcourse.kernels.norm_up import norm_up
from lmcourse.kernels.operands import (
    ALL_BEFORE,
    AnyMatrix,
    AnyNorm,
    CentredNorm,
    Int8Matrix,
    Matrix,
    Norm,
    PackedMatrix,
    Reach,
    Rotation,
    Stream,
    sum_parts,
    sum_stream,
)
from lmcourse.kernels.packed import arrange_packed
from lmcourse.kernels.packed_kv import INT4, INT8, AnyKV, KVFormat, PackedKV
from lmcourse.kernels.project import project
from lmcourse.kernels.ragged import LayerKV, RaggedBatch
from lmcourse.kernels.rms_norm import add_rms_norm, rms_norm
from lmcourse.kernels.rotary import rotate
from lmcourse.kernels.rotate_write import rotate_write
from lmcourse.kernels.round_columns import round_columns
from lmcourse.kernels.swiglu import swiglu

__all__ = [
    "ALL_BEFORE",
    "INT4",
    "INT8",
    "AnyKV",
    "AnyMatrix",
    "AnyNorm",
    "CentredNorm",
    "Int8Matrix",
    "KVFormat",
    "LayerKV",
    "Matrix",
    "Norm",
    "PackedKV",
    "PackedMatrix",
    "RaggedBatch",
    "Reach",
    "Rotation",
    "Routing",
    "Stream",
    "add_norm",
    "add_rms_norm",
    "angles",
    "arrange_packed",
    "arrange_weight",
    "geglu",
    "geglu_tanh",
    "gelu",
    "gelu_tanh",
    "norm_gate_up",
    "norm_qkv",
    "norm_up",
    "project",
    "ragged_attention",
    "rms_norm",
    "rotate",
    "rotate_write",
    "round_columns",
    "route",
    "run_experts",
    "sum_parts",
    "sum_stream",
    "swiglu",
    "write_kv",
]
