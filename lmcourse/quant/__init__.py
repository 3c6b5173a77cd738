"""Quantisation as arithmetic: how numbers are rounded, which scales help, how bits are packed. Runs no model.

rounding.py   fit_grid, quantise, fake_quantise   round to nearest, group by group
awq.py        search_scale, search_clip, smooth_scale   activation-aware scales
packing.py    pack_columns, unpack_columns        AWQ's order of eight numbers in an int32
formats.py    WeightFormat, PLAIN, AwqFormat      how a matrix is stored, on disk and in the engine
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
from lmcourse.quant.formats import PLAIN, AwqFormat, PlainFormat, StoredAwq, WeightFormat
from lmcourse.quant.packing import AWQ_ORDER, pack_columns, unpack_columns
from lmcourse.quant.rounding import Grid, QuantSettings, fake_quantise, fit_grid, grouped, quantise

__all__ = [
    "AWQ_ORDER",
    "PLAIN",
    "AwqFormat",
    "ChannelStats",
    "Grid",
    "PlainFormat",
    "QuantSettings",
    "ScaleSearch",
    "StoredAwq",
    "WeightFormat",
    "fake_quantise",
    "fit_grid",
    "grouped",
    "output_error",
    "pack_columns",
    "quantise",
    "search_clip",
    "search_scale",
    "smooth_scale",
    "typical_weight",
    "unpack_columns",
]
