"""Models: from a folder of files to a decoder that runs.

families.py       find_family, FAMILIES   which row runs a config
hf_config.py      …_spec                  config.json → ModelSpec
layouts.py        TensorRule              stored tensors → canonical weights, per family
decoder.py        Decoder                 the only transformer
checkpoint.py     Checkpoint              safetensors: names and shapes, then one tensor at a time
weight_stream.py  WeightStream            canonical weights, one at a time
loading.py        load_spec, load_decoder a folder → a decoder on a device
files.py          read_json               small files, safely
"""

from lmcourse.models.checkpoint import Checkpoint, TensorInfo
from lmcourse.models.decoder import Decoder, DecoderLayer
from lmcourse.models.families import FAMILIES, Family, find_family
from lmcourse.models.loading import Progress, load_decoder, load_spec

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Decoder",
    "DecoderLayer",
    "Family",
    "Progress",
    "TensorInfo",
    "find_family",
    "load_decoder",
    "load_spec",
]
