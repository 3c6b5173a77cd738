"""The parts of a transformer layer, as modules that hold weights and call kernels.

linear.py      Linear              x · Wᵀ + b, in parts
low_rank.py    LowRank             what is added to that for the tokens of pictures
norm.py        NORMS               a norm's weight, applied to the residual stream
rotary.py      Rotary              the angles of a step's tokens
attention.py   Attention           norm → fused q, k, v → rotate → cache → attend → output
mlp.py         MLPS, ACTIVATIONS   norm → fused gate and up → SwiGLU → down, and other kinds
moe.py         MoE                 norm → router → the chosen experts
embedding.py   Embedding           token ids → features
parallel.py    Ranks               devices that share a model: what is cut, where they add up
peers.py       join_peers          ranks that write into each other's memory
"""

from lmcourse.layers.attention import Attention
from lmcourse.layers.embedding import Embedding
from lmcourse.layers.linear import Linear
from lmcourse.layers.low_rank import LowRank
from lmcourse.layers.mlp import ACTIVATIONS, MLP, MLPS, PlainMLP, make_mlp
from lmcourse.layers.moe import MoE
from lmcourse.layers.norm import NORMS, LayerNorm, RMSNorm, make_norm
from lmcourse.layers.parallel import ALONE, Alone, GroupRanks, Ranks, cut_spec, finish
from lmcourse.layers.peers import PeerRanks, join_peers
from lmcourse.layers.rotary import Rotary

__all__ = [
    "ACTIVATIONS",
    "ALONE",
    "MLP",
    "MLPS",
    "NORMS",
    "Alone",
    "Attention",
    "Embedding",
    "GroupRanks",
    "LayerNorm",
    "Linear",
    "LowRank",
    "MoE",
    "PeerRanks",
    "PlainMLP",
    "RMSNorm",
    "Ranks",
    "Rotary",
    "cut_spec",
    "finish",
    "join_peers",
    "make_mlp",
    "make_norm",
]
