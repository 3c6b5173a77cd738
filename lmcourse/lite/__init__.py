"""lite: run a model once over calibration text to make it smaller.

auto_awq.py          auto_awq                   a folder → a folder with 4-bit weights
awq_job.py           AwqJob                     what is asked for
visits.py            layers_with_inputs         one layer after another
calibrate.py         calibrate                  the statistics alone
calibration_text.py  find_text, draw_samples    which text
layer_inputs.py      LayerRunner, LayerInputs   what flows into the matrices of a layer
layer_path.py        LayerPath                  the same for a layer whose matrices are being changed
two_paths.py         TwoPaths                   the model as it was, and the model as it becomes
layer_quantise.py    quantise_layer             scales, clipping, rounding, packing of a layer
expert_quantise.py   quantise_experts           the same for each expert
methods.py           METHODS                    round to nearest, smooth, search
perplexity.py        perplexity                 what a model loses
work_folder.py       Unfinished, finish         an output that is whole or not there
"""

from lmcourse.lite.auto_awq import AwqResult, auto_awq
from lmcourse.lite.awq_job import AwqJob
from lmcourse.lite.calibrate import calibrate
from lmcourse.lite.calibration_text import PUBLISHED_SETS, CalibrationText, draw_samples, find_text
from lmcourse.lite.layer_inputs import LayerInputs, LayerRunner
from lmcourse.lite.layer_job import LayerJob
from lmcourse.lite.layer_quantise import quantise_layer
from lmcourse.lite.methods import METHODS, ROUND_TO_NEAREST, SEARCH, SMOOTH, Method
from lmcourse.lite.perplexity import perplexity
from lmcourse.lite.visits import layers_with_inputs, open_source

__all__ = [
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
