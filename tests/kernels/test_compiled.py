"""What the compiler makes of the kernels at a real model's shapes, for GPUs that need not be here.

Gates: no spills; shared memory that the GPU has; tensor-core instructions where there is a dot; instructions per weight
of the row forms; and on sm_90 that weights are asked for before the wait of a dependent launch.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

pytest.importorskip("triton")
from compiled import SHARED_BYTES, build, record

from lmcourse.kernels import INT4, INT8, LayerKV, Matrix, Norm, PackedKV, PackedMatrix, RaggedBatch, Rotation, Stream
from lmcourse.kernels.add_norm import add_norm_triton
from lmcourse.kernels.advance import Field
from lmcourse.kernels.angles import angles_triton
from lmcourse.kernels.attention import ragged_attention_triton
from lmcourse.kernels.draw import draw_triton
from lmcourse.kernels.kv_write import write_kv_triton
from lmcourse.kernels.moe_experts import experts_rows
from lmcourse.kernels.moe_route import Routing, route_triton
from lmcourse.kernels.moe_tiles import experts_tiles
from lmcourse.kernels.norm_gate_up import norm_gate_up_rows, norm_gate_up_tiles
from lmcourse.kernels.norm_qkv import norm_qkv_rows
from lmcourse.kernels.project import project_rows, project_tiles
from lmcourse.kernels.rank_sum import TILE, Mailbox, rank_sum
from lmcourse.kernels.rotate_write import rotate_write_triton
from lmcourse.kernels.round_columns import round_columns_triton
from lmcourse.kernels.sampling import argmax_triton
from lmcourse.kernels.swiglu import swiglu_triton
from lmcourse.kernels.w4a16_experts import packed_experts_rows
from lmcourse.spec import ExpertSpec, RotarySpec

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCAB = 2048, 16, 8, 128, 8192, 92544  # InternLM2-1.8B
QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM


def meta(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="meta")


def stream(tokens, parts=1):
    return Stream(
        meta(tokens, HIDDEN), meta(parts, tokens, HIDDEN, dtype=torch.float32 if parts > 1 else torch.float16)
    )


def place(tokens):
    angles = Rotation(*(meta(tokens, HEAD_DIM // 2, dtype=torch.float32) for _ in "cs"))
    return angles, LayerKV(*(meta(100, KV_HEADS, 64, HEAD_DIM) for _ in "kv")), meta(tokens, dtype=torch.int64)


def quantised(form, head_dim=HEAD_DIM):
    cells = (meta(100, KV_HEADS, 64, head_dim // 2, dtype=form.cell_dtype) for _ in "kv")
    return PackedKV(*cells, *(meta(100, KV_HEADS, form.num_scales, 64) for _ in "kv"), form)


def attention(decodes, prefill=0, form=None):
    starts = (*range(decodes), decodes) + ((decodes + prefill,) if prefill else ())
    tokens, requests = starts[-1], len(starts) - 1
    ints = meta(tokens, dtype=torch.int64)
    batch = RaggedBatch(ints, ints, meta(requests, 16, dtype=torch.int32), starts, (1024,) * requests, ints, decodes)
    batch.__dict__["device_starts"] = meta(requests + 1, dtype=torch.int32)
    return meta(tokens, HEADS, HEAD_DIM), quantised(form) if form else place(1)[1], batch, 0.1


def mailbox(size):
    addresses = meta(size, dtype=torch.int64)
    return Mailbox(1, addresses, addresses, meta(512, dtype=torch.int64), meta(1, dtype=torch.int32), 512 * TILE)


NORM = Norm(meta(HIDDEN), 1e-5)
GATE_UP, DOWN = Matrix(meta(2 * INTERMEDIATE, HIDDEN)), Matrix(meta(HIDDEN, INTERMEDIATE))
ROWS = {
    "norm_qkv": (norm_qkv_rows, (stream(1), NORM, Matrix(meta(QKV, HIDDEN)), *place(1))),
    "norm_gate_up": (norm_gate_up_rows, (stream(1), NORM, GATE_UP)),
    "down": (project_rows, (meta(1, INTERMEDIATE), DOWN)),
    "head": (project_rows, (meta(1, HIDDEN), Matrix(meta(VOCAB, HIDDEN)), torch.float32)),
    "7B down": (project_rows, (meta(1, 11008), Matrix(meta(4096, 11008)))),
}
DOTS = {
    "gate_up of 8": (norm_gate_up_tiles, (stream(8, 4), NORM, GATE_UP), 0),
    "gate_up of 64": (norm_gate_up_tiles, (stream(64, 4), NORM, GATE_UP), 1),
    "down of 8": (project_tiles, (meta(8, INTERMEDIATE), DOWN), 0),
    "down of 64": (project_tiles, (meta(64, INTERMEDIATE), DOWN), 1),
    "decode of 1": (ragged_attention_triton, attention(1), 0),
    "decode of 64": (ragged_attention_triton, attention(64), 0),
    "prefill of 1024": (ragged_attention_triton, attention(0, 1024), 1),
    "int8 decode of 1": (ragged_attention_triton, attention(1, form=INT8), 0),
    "int8 decode of 64": (ragged_attention_triton, attention(64, form=INT8), 0),
    "int8 prefill of 1024": (ragged_attention_triton, attention(0, 1024, form=INT8), 1),
    "int4 decode of 64": (ragged_attention_triton, attention(64, form=INT4), 0),
    "int4 prefill of 1024": (ragged_attention_triton, attention(0, 1024, form=INT4), 1),
}
REST = {
    "add_norm": (add_norm_triton, (stream(64, 4), NORM)),
    "rotate_write": (rotate_write_triton, (meta(2, 8, QKV, dtype=torch.float32), *place(8), torch.float16)),
    "rotate_write int8": (
        rotate_write_triton,
        (meta(2, 8, QKV, dtype=torch.float32), place(8)[0], quantised(INT8), place(8)[2], torch.float16),
    ),
    "write_kv int4": (
        write_kv_triton,
        (meta(8, KV_HEADS, HEAD_DIM), meta(8, KV_HEADS, HEAD_DIM), quantised(INT4), place(8)[2]),
    ),
    "swiglu": (swiglu_triton, (meta(4096, 2 * INTERMEDIATE),)),
    "round_columns": (
        round_columns_triton,
        (
            meta(8192, 128, dtype=torch.float32),
            meta(128, 128, dtype=torch.float32),
            *(meta(8192, 128, dtype=torch.float32),) * 2,
            15,
        ),
    ),
    "rank_sum": (rank_sum, (meta(4, 8, HIDDEN, dtype=torch.float32), mailbox(2))),
    "argmax": (argmax_triton, (meta(8, VOCAB, dtype=torch.float32), meta(8, dtype=torch.int64))),
}
QWEN_EXPERTS = ExpertSpec(60, 4, 1408, shared_intermediate=5632, shared_gate=True)  # Qwen1.5-MoE-A2.7B


def experts(tokens, spec=QWEN_EXPERTS, hidden=HIDDEN):
    stacked = (
        meta(spec.total * 2 * spec.intermediate, hidden),
        meta(spec.total * hidden, spec.intermediate),
    )
    return meta(tokens, hidden), *map(Matrix, stacked), routing(tokens, spec)


def routing(tokens, spec=QWEN_EXPERTS):
    return Routing(meta(tokens, spec.slots, dtype=torch.int32), meta(tokens, spec.slots, dtype=torch.float32))


INSTRUCTIONS_PER_WEIGHT = 5.0  # at 4.3 TB/s an H200 has time for 15.6 per 2-byte weight


def compile_all(wrapper, arguments, capability):
    launches = record(wrapper, *arguments, capability=divmod(capability, 10))
    assert launches
    for launch in launches:
        built = build(launch, capability)
        print(f"{launch.kernel.__name__} sm_{capability}: {built.registers} registers, {built.shared_bytes} B shared")
        assert built.spill_bytes == 0
        assert built.shared_bytes <= SHARED_BYTES[capability]
        assert built.registers * 32 * built.warps <= 65536
        yield launch, built


@pytest.mark.parametrize("name", ROWS)
def test_rows_few_instructions_and_weights_before_the_wait(name):
    wrapper, arguments = ROWS[name]
    ((launch, built),) = compile_all(wrapper, arguments, 90)
    rows = launch.arguments.get("ROWS") or launch.arguments["PAIRS"]
    matrices = 1 if "project" in launch.kernel.__name__ else 2
    weights_per_thread = rows * matrices * launch.arguments["TILE_K"] / (32 * built.warps)
    per_weight = len(built.code) / weights_per_thread
    print(f"{per_weight:.2f} instructions per weight")
    assert per_weight < (2 * INSTRUCTIONS_PER_WEIGHT if "norm" in launch.kernel.__name__ else INSTRUCTIONS_PER_WEIGHT)
    before_wait = built.code[: built.code.index("ACQBULK")]
    loads = sum(code.startswith("LDG.E.128") for code in before_wait)
    assert loads >= weights_per_thread * launch.arguments["WIDTH"] // launch.arguments["TILE_K"] // 8


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", DOTS)
def test_dots_use_tensor_cores(name, capability):
    wrapper, arguments, big = DOTS[name]
    _, built = next(iter(compile_all(wrapper, arguments, capability)))
    assert built.has("HGMMA" if big and capability == 90 else "HMMA")


@pytest.mark.parametrize("name", ["down of 64", "prefill of 1024", "decode of 64"])
def test_dots_fit_a_small_gpu(name):
    for _, built in compile_all(*DOTS[name][:2], 89):
        assert built.has("HMMA")


def test_quantised_decode_turns_words_into_floats_without_conversions():
    """Two byte permutations and no I2F for two numbers: a conversion each would cost four times the instructions."""
    _, built = next(iter(compile_all(ragged_attention_triton, attention(200, form=INT8), 90)))  # one loop, one tile
    per_tile = 2 * 64 * HEAD_DIM // (2 * 32 * built.warps)  # keys and values, two numbers an instruction
    assert not built.has("I2F")
    assert per_tile <= built.counts["PRMT"] <= per_tile + 32
    assert not built.has("LDS.U8", "LDS.S8")


def test_prefill_loads_by_the_copy_engine_on_sm_90():
    _, built = next(iter(compile_all(*DOTS["prefill of 1024"][:2], 90)))
    assert built.has("UTMALDG")


@pytest.mark.parametrize("name", REST)
def test_streaming_kernels_load_wide(name):
    for _, built in compile_all(*REST[name], 90):
        assert "STL" not in built.counts
        assert built.has("LDG.E.128", "LDG.E.64") or built.counts["LDG.E"] < 8


def test_draw_has_no_spills_and_loads_wide():
    """Of its 22 launches, the last of each kernel and filter."""
    logits, rows = meta(8, VOCAB, dtype=torch.float32), meta(8, Field.TABLE + 16, dtype=torch.int32)
    launches = record(partial(draw_triton, top_k=True, top_p=True), logits, rows, meta(8, dtype=torch.int64))
    assert len(launches) == 22
    last = {(launch.kernel.__name__, launch.arguments.get("BY_MASS")): launch for launch in launches}
    for (name, _), launch in last.items():
        built = build(launch, 90)
        print(f"{name}: {built.registers} registers, {built.shared_bytes} B shared")
        assert built.spill_bytes == 0
        assert built.has("LDG.E.128", "LDG.E.64") or "logits_ptr" not in launch.arguments


def test_angles_stack_is_that_of_large_arguments_only():
    """cos and sin of any float32 keep 32 bytes of a long division by π on the stack."""
    spec = RotarySpec(1e6, "dynamic")
    (launch,) = record(angles_triton, meta(8, dtype=torch.int64), meta(8, dtype=torch.int64), spec, HEAD_DIM)
    assert build(launch, 90).spill_bytes <= 32


@pytest.mark.parametrize("capability", [80, 90])
def test_rank_sum_speaks_to_the_whole_system(capability):
    """Flags are raised with release and awaited with acquire, and what arrived does not come from the first cache."""
    ((_, built),) = compile_all(rank_sum, REST["rank_sum"][1], capability)
    assert any("SYS" in code for code in built.code), "a flag that only this GPU sees"
    assert built.has("MEMBAR.ALL.SYS", "MEMBAR.SC.SYS", "FENCE", "MEMBAR")


def test_expert_rows_few_instructions_and_wide_loads():
    for launch, built in compile_all(experts_rows, experts(1), 90):
        matrices = 2 if "gate_up" in launch.kernel.__name__ else QWEN_EXPERTS.slots
        weights_per_thread = launch.arguments["ROWS"] * matrices * launch.arguments["TILE_K"] / (32 * built.warps)
        print(f"{len(built.code) / weights_per_thread:.2f} instructions per weight")
        assert len(built.code) / weights_per_thread < 2 * INSTRUCTIONS_PER_WEIGHT
        assert sum(code.startswith("LDG.E.128") for code in built.code) >= weights_per_thread // 8


def test_packed_expert_rows_fit_registers():
    spec = QWEN_EXPERTS
    shapes = ((spec.total * 2 * spec.intermediate, HIDDEN), (spec.total * HIDDEN, spec.intermediate))
    packed = (
        PackedMatrix(meta(rows, width // 8, dtype=torch.int32), meta(rows, width // 128, dtype=torch.int32))
        for rows, width in shapes
    )
    assert len(list(compile_all(packed_experts_rows, (meta(1, HIDDEN), *packed, routing(1)), 90))) == 2


@pytest.mark.parametrize(("tokens", "capability"), [(8, 80), (4096, 90)])
def test_expert_tiles_use_tensor_cores(tokens, capability):
    launches = [
        pair
        for pair in compile_all(experts_tiles, experts(tokens), capability)
        if "plan" not in pair[0].kernel.__name__
    ]
    for _, built in launches:
        assert built.has("HGMMA" if tokens > 8 and capability == 90 else "HMMA")


def test_expert_routing_keeps_nothing_on_the_stack():
    assert list(compile_all(route_triton, (meta(1, 64, QWEN_EXPERTS.count + 1, dtype=torch.float32), QWEN_EXPERTS), 90))


@pytest.mark.parametrize("capability", [80, 89])
def test_no_dependent_launch_before_sm_90(capability):
    for _, built in compile_all(*ROWS["norm_qkv"], capability):
        assert not built.has("ACQBULK")
