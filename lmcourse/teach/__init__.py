"""What lessons show: pure functions from a table to a drawing, so that each can be tested without a notebook.

drawing.py           Drawing: a figure with the sentence that says what it shows
trace.py             engine events → tables: what the pool held, who computed what
recording.py         record_run: an engine on a few prompts, and all that figures need about it
block_map.py         the pool at one step, block by block
step_chart.py        requests over steps: prefill, decode, waiting, preemption
read_pattern.py      which blocks a token's attention reads
live_bytes.py        LiveBytes: what intermediate results take
memory_bar.py        what memory is spent on
error_histogram.py   what quantisation changes
line_chart.py        curves, and where they cross
recorded.py          results measured elsewhere, with machine and date
speed_bars.py        tokens per second
report_card.py       ReportCard: a measurement as one HTML file
roofline.py          what a machine can do at which intensity
quantization.py      what bits and group sizes do, and where bits lie
packed_product.py    the 4-bit kernel under the interpreter
kernel_reads.py      the attention kernel in Triton's interpreter, and what it loads
seeing.py            a picture as patches, tiles, tokens; where a word looks
source.py            a kernel's stages, cut at its own comments
class_view.py        a class on its server, live
class_chart.py       one moment of it as a figure
class_table.py       and as sentences and HTML
widgets.py           Stepper: a slider over drawings
style.py             hatches, tints, units
"""

from __future__ import annotations

from lmcourse.teach.block_map import block_map
from lmcourse.teach.class_chart import class_chart
from lmcourse.teach.class_table import class_summary, class_table
from lmcourse.teach.class_view import ClassView, class_view
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.error_histogram import error_histogram
from lmcourse.teach.kernel_reads import interpret_decode
from lmcourse.teach.line_chart import crossing, line_chart
from lmcourse.teach.live_bytes import LiveBytes, measure_intermediate_bytes
from lmcourse.teach.memory_bar import memory_bar
from lmcourse.teach.quantization import explore_rounding, packing_picture, round_at
from lmcourse.teach.read_pattern import read_pattern
from lmcourse.teach.recorded import (
    RecordedTable,
    recorded_decode,
    recorded_kv_accuracy,
    recorded_queue,
    recorded_w4_accuracy,
)
from lmcourse.teach.recording import Recording, record_run
from lmcourse.teach.report_card import ReportCard
from lmcourse.teach.roofline import attainable, roofline
from lmcourse.teach.seeing import draw_attention, draw_features, draw_patches, draw_prompt, draw_tiles
from lmcourse.teach.source import kernel_stages
from lmcourse.teach.speed_bars import speed_bars
from lmcourse.teach.step_chart import step_chart
from lmcourse.teach.trace import PoolState, Timeline, pool_states, timeline
from lmcourse.teach.widgets import Stepper

__all__ = [
    "ClassView",
    "Drawing",
    "LiveBytes",
    "PoolState",
    "RecordedTable",
    "Recording",
    "ReportCard",
    "Stepper",
    "Timeline",
    "attainable",
    "block_map",
    "class_chart",
    "class_summary",
    "class_table",
    "class_view",
    "crossing",
    "draw_attention",
    "draw_features",
    "draw_patches",
    "draw_prompt",
    "draw_tiles",
    "error_histogram",
    "explore_rounding",
    "interpret_decode",
    "kernel_stages",
    "line_chart",
    "measure_intermediate_bytes",
    "memory_bar",
    "packing_picture",
    "pool_states",
    "read_pattern",
    "record_run",
    "recorded_decode",
    "recorded_kv_accuracy",
    "recorded_queue",
    "recorded_w4_accuracy",
    "roofline",
    "round_at",
    "speed_bars",
    "step_chart",
    "timeline",
]
