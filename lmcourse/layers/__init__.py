"""The parts of a transformer layer, as modules that hold weights and call kernels.

linear.py      Linear              y = x · Wᵀ + b
norm.py        RMSNorm             a norm's weight, with and without the residual sum
rotary.py      Rotary, Rotation    the angles of a step's tokens
attention.py   Attention           fused q, k, v → rotate → cache → attend → output
mlp.py         MLP                 fused gate and up → SwiGLU → down
embedding.py   Embedding           token ids → features
"""

from lmcourse.layers.attention import Attention
from lmcourse.layers.embedding import Embedding
from lmcourse.layers.linear import Linear
from lmcourse.layers.mlp import MLP
from lmcourse.layers.norm import RMSNorm
from lmcourse.layers.rotary import Rotary, Rotation

__all__ = ["MLP", "Attention", "Embedding", "Linear", "RMSNorm", "Rotary", "Rotation"]
