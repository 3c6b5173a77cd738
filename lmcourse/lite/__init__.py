"""lite: run a model once over calibration text to make it smaller.

auto_awq.py          auto_awq, AwqJob           a folder → a folder with 4-bit weights
calibrate.py         calibrate                  the statistics alone
calibration_text.py  find_text, draw_samples    which text
layer_inputs.py      LayerRunner, LayerInputs   what flows into the matrices of a layer
layer_quantise.py    quantise_layer             scales, clipping, rounding, packing of a layer
methods.py           METHODS                    round to nearest, smooth, search, compensate
perplexity.py        perplexity                 what a model loses
work_folder.py       Unfinished, finish         an output that is whole or not there
"""

from lmcourse.lite.auto_awq import AwqJob, AwqResult, auto_awq, layers_with_inputs, open_source
from lmcourse.lite.calibrate import calibrate
from lmcourse.lite.calibration_text import PUBLISHED_SETS, CalibrationText, draw_samples, find_text
from lmcourse.lite.layer_inputs import LayerInputs, LayerRunner
from lmcourse.lite.layer_quantise import LayerJob, quantise_layer
from lmcourse.lite.methods import COMPENSATE, METHODS, ROUND_TO_NEAREST, SEARCH, SMOOTH, Method
from lmcourse.lite.perplexity import perplexity

__all__ = [
    "COMPENSATE",
    "METHODS",
    "PUBLISHED_SETS",
    "ROUND_TO_NEAREST",
    "SEARCH",
    "SMOOTH",
    "AwqJob",
    "AwqResult",
    "CalibrationText",
    "LayerInputs",
    "LayerJob",
    "LayerRunner",
    "Method",
    "auto_awq",
    "calibrate",
    "draw_samples",
    "find_text",
    "layers_with_inputs",
    "open_source",
    "perplexity",
    "quantise_layer",
]
