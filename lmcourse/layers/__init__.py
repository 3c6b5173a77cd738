"""The parts of a transformer layer, as modules that hold weights and call kernels.

linear.py      Linear              x · Wᵀ + b, in parts
norm.py        RMSNorm             a norm's weight, applied to the residual stream
rotary.py      Rotary              the angles of a step's tokens
attention.py   Attention           norm → fused q, k, v → rotate → cache → attend → output
mlp.py         MLP                 norm → fused gate and up → SwiGLU → down
embedding.py   Embedding           token ids → features
"""

from lmcourse.layers.attention import Attention
from lmcourse.layers.embedding import Embedding
from lmcourse.layers.linear import Linear
from lmcourse.layers.mlp import MLP
from lmcourse.layers.norm import RMSNorm
from lmcourse.layers.rotary import Rotary

__all__ = ["MLP", "Attention", "Embedding", "Linear", "RMSNorm", "Rotary"]
