"""Quantisation as arithmetic: how numbers are rounded, which scales help, how bits are packed. Runs no model.

rounding.py   fit_grid, quantise, fake_quantise   round to nearest, group by group
awq.py        search_scale, search_clip, smooth_scale   activation-aware scales
compensation.py  compensated, aimed                errors of one column, and of earlier layers, taken back
packing.py    pack_columns, unpack_columns        AWQ's order of eight numbers in an int32
formats.py    WeightFormat, PLAIN, AwqFormat, Int8Format   how a matrix is stored, on disk and in the engine
"""

from lmcourse.quant.awq import (
    ChannelStats,
    ScaleSearch,
    output_error,
    search_clip,
    search_scale,
    smooth_scale,
    typical_weight,
)
from lmcourse.quant.compensation import InputMoments, aimed, compensated, inverse_factor, quantise_compensated, refitted
from lmcourse.quant.formats import (
    INT8_ROWS,
    PLAIN,
    AwqFormat,
    Int8Format,
    PackedFormat,
    PlainFormat,
    StoredAwq,
    StoredInt8,
    WeightFormat,
)
from lmcourse.quant.packing import AWQ_ORDER, pack_columns, unpack_columns
from lmcourse.quant.rounding import Grid, QuantSettings, fake_quantise, fit_grid, grouped, quantise

__all__ = [
    "AWQ_ORDER",
    "INT8_ROWS",
    "PLAIN",
    "AwqFormat",
    "ChannelStats",
    "Grid",
    "InputMoments",
    "Int8Format",
    "PackedFormat",
    "PlainFormat",
    "QuantSettings",
    "ScaleSearch",
    "StoredAwq",
    "StoredInt8",
    "WeightFormat",
    "aimed",
    "compensated",
    "fake_quantise",
    "fit_grid",
    "grouped",
    "inverse_factor",
    "output_error",
    "pack_columns",
    "quantise",
    "quantise_compensated",
    "refitted",
    "search_clip",
    "search_scale",
    "smooth_scale",
    "typical_weight",
    "unpack_columns",
]
