"""Models: from a folder of files to a decoder that runs.

families.py          find_family, FAMILIES   which row runs a config
hf_config.py         llama_spec, …           config.json → ModelSpec
layouts.py           TensorRule              stored tensors → canonical weights, per family
decoder.py           Decoder                 the only transformer
safetensors_file.py  read_header, …          one file: its header, checked; written tensor by tensor
checkpoint.py        Checkpoint              a folder: names and shapes, then one tensor at a time
language_part.py     LanguagePart            the language model in a vision-language folder
lora.py              MergedLora              a folder's low-rank updates, added to its matrices
random_weights.py    RandomCheckpoint        weights that are drawn, for measuring a shape
separate_experts.py  separate_experts        a stack of experts, seen as one matrix for each
weight_stream.py     WeightStream            canonical weights, one at a time
loading.py           load_spec, load_decoder a folder → a decoder on a device
engine_format.py     EngineManifest          the engine's own format, and which format a folder has
convert.py           convert                 Hugging Face folder → engine format
new_folder.py        new_folder              a folder that appears complete or not at all
files.py             read_json               small files, safely
spec_limits.py       check_limits            sizes that no model has
"""

from lmcourse.models.checkpoint import Checkpoint, TensorSource
from lmcourse.models.convert import ConvertedTensor, convert
from lmcourse.models.decoder import Decoder, DecoderLayer, FeatureRows, make_layer, make_rotary
from lmcourse.models.engine_format import detect_format
from lmcourse.models.families import FAMILIES, Family, find_family
from lmcourse.models.files import read_json, require_folder
from lmcourse.models.language_part import LanguagePart, has_pictures, language_config
from lmcourse.models.layouts import StoredTensor, TensorRule, stored_tensors
from lmcourse.models.loading import Progress, load_decoder, load_spec, open_checkpoint, open_weights
from lmcourse.models.new_folder import new_folder, require_free_space
from lmcourse.models.random_weights import RandomTensors, draws_weights
from lmcourse.models.safetensors_file import Slot, TensorInfo, TensorWriter, read_header, write_safetensors
from lmcourse.models.separate_experts import separate_experts
from lmcourse.models.weight_stream import WeightStream

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "ConvertedTensor",
    "Decoder",
    "DecoderLayer",
    "Family",
    "FeatureRows",
    "LanguagePart",
    "Progress",
    "RandomTensors",
    "Slot",
    "StoredTensor",
    "TensorInfo",
    "TensorRule",
    "TensorSource",
    "TensorWriter",
    "WeightStream",
    "convert",
    "detect_format",
    "draws_weights",
    "find_family",
    "has_pictures",
    "language_config",
    "load_decoder",
    "load_spec",
    "make_layer",
    "make_rotary",
    "new_folder",
    "open_checkpoint",
    "open_weights",
    "read_header",
    "read_json",
    "require_folder",
    "require_free_space",
    "separate_experts",
    "stored_tensors",
    "write_safetensors",
]
