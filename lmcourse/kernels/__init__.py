"""The operations of one transformer step, one file each: formula, traffic, reference, form that runs.

rms_norm.py    rms_norm, add_rms_norm      normalise a token's features
rotary.py      rotate                      turn positions into angles of q and k
kv_write.py    write_kv                    put new keys and values into KV blocks
attention.py   ragged_attention            attend through block tables
swiglu.py      swiglu                      the gated activation of the MLP
ragged.py      RaggedBatch, LayerKV        the layout that they share
dispatch.py    Operation                   which form runs on which device
"""

from lmcourse.kernels.attention import ragged_attention
from lmcourse.kernels.kv_write import write_kv
from lmcourse.kernels.ragged import LayerKV, RaggedBatch
from lmcourse.kernels.rms_norm import add_rms_norm, rms_norm
from lmcourse.kernels.rotary import rotate
from lmcourse.kernels.swiglu import swiglu

__all__ = ["LayerKV", "RaggedBatch", "add_rms_norm", "ragged_attention", "rms_norm", "rotate", "swiglu", "write_kv"]
