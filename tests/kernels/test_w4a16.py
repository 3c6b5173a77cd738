"""4-bit kernels: what the compiler makes of them for GPUs that need not be here, and the forms that a CPU can run.

Gates: at most 4 instructions per weight on sm_90 in the loop over tiles and in what a row kernel does all in all for
many rows; no spills; shared memory that the GPU has; tensor cores where there is a dot; weights asked for before the
wait of a dependent launch. triton_cases.py has their results, under the interpreter.
"""

from __future__ import annotations

import re
import subprocess

import pytest
import torch
from torch.nn.functional import linear

pytest.importorskip("triton")
import compiled
from compiled import SHARED_BYTES, build, record

from lmcourse.kernels import LayerKV, Norm, PackedMatrix, Rotation, Stream, norm_gate_up, project
from lmcourse.kernels.packed import join_groups, pack_words, unpack_matrix
from lmcourse.kernels.w4a16 import w4a16_rows
from lmcourse.kernels.w4a16_norm_gate_up import w4a16_norm_gate_up_rows, w4a16_norm_gate_up_tiles
from lmcourse.kernels.w4a16_norm_qkv import w4a16_norm_qkv_rows
from lmcourse.kernels.w4a16_tiles import unpack_triton, w4a16_tiles

SIZES = {"1.8B": (2048, 16, 8, 8192), "7B": (4096, 32, 32, 11008)}  # hidden, heads, kv heads, intermediate
MOST_INSTRUCTIONS = 4.0  # per weight: at 4.2 TB/s an H200 has time for so many per 0.53 bytes


def meta(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="meta")


def matrix(rows, width, group=128):
    return PackedMatrix(meta(rows, width // 8, dtype=torch.int32), meta(rows, width // group, dtype=torch.int32))


def place(kv_heads):
    angles = Rotation(*(meta(1, 64, dtype=torch.float32) for _ in "cs"))
    return angles, LayerKV(*(meta(100, kv_heads, 64, 128) for _ in "kv")), meta(1, dtype=torch.int64)


def row_forms(name):
    hidden, heads, kv_heads, inner = SIZES[name]
    stream, norm = Stream(meta(1, hidden), meta(1, 1, hidden)), Norm(meta(hidden), 1e-5)
    return {
        "qkv": (w4a16_norm_qkv_rows, (stream, norm, matrix((heads + 2 * kv_heads) * 128, hidden), *place(kv_heads))),
        "output": (w4a16_rows, (meta(1, heads * 128), matrix(hidden, heads * 128))),
        "gate_up": (w4a16_norm_gate_up_rows, (stream, norm, matrix(2 * inner, hidden))),
        "down": (w4a16_rows, (meta(1, inner), matrix(hidden, inner))),
    }


def compile_one(wrapper, arguments, capability):
    launches = record(wrapper, *arguments, capability=divmod(capability, 10))
    launch = next(each for each in reversed(launches) if "w4a16" in each.kernel.__name__ or len(launches) == 1)
    built = build(launch, capability)
    print(f"{launch.kernel.__name__} sm_{capability}: {built.registers} registers, {built.shared_bytes} B shared")
    assert built.spill_bytes == 0
    assert built.shared_bytes <= SHARED_BYTES[capability]
    assert built.registers * 32 * built.warps <= 65536
    return launch, built


@pytest.mark.parametrize("kind", ["qkv", "output", "gate_up", "down"])
@pytest.mark.parametrize(("name", "capability"), [("1.8B", 90), ("7B", 90), ("1.8B", 80), ("7B", 89)])
def test_rows_load_wide_and_do_not_spill(name, kind, capability):
    wrapper, arguments = row_forms(name)[kind]
    _, built = compile_one(wrapper, arguments, capability)
    assert built.has("LDG.E.128")
    assert built.has("HFMA2")
    assert not built.has("I2F")  # a conversion costs sixteen times a multiplication
    if capability == 90:
        assert any(code.startswith("LDG.E.128") for code in built.code[: built.code.index("ACQBULK")])
    else:
        assert not built.has("ACQBULK")


def loop_instructions(built_of, launch, capability):
    """Instructions in the longest loop of a kernel."""
    kept = {}
    read = compiled.read_code

    def keep(made):
        kept["cubin"] = made.asm["cubin"]
        return read(made)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "read_code", keep)
        built_of(launch, capability)
    return count_loop(kept["cubin"])


def count_loop(cubin):
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [compiled.TOOLS / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True
        ).stdout
    labels, count, longest = {}, 0, 0
    for line in text.splitlines():
        label = re.match(r"^(\.L_x_\d+):", line)
        if label:
            labels[label.group(1)] = count
        if re.match(r"^\s+/\*[0-9a-f]{4,}\*/\s+\S", line):
            count += 1
            back = re.search(r"BRA.*\((\.L_x_\d+)\)", line)
            if back and back.group(1) in labels:
                longest = max(longest, count - labels[back.group(1)])
    return longest


@pytest.mark.parametrize(("tokens", "most"), [(8, MOST_INSTRUCTIONS), (16, MOST_INSTRUCTIONS), (64, MOST_INSTRUCTIONS)])
def test_tiles_few_instructions_per_weight(tokens, most):
    (launch,) = record(w4a16_tiles, meta(tokens, 2048), matrix(16384, 2048))
    loop = loop_instructions(build, launch, 90)
    arguments = launch.arguments
    weights = arguments["TILE_N"] * arguments["TILE_K"] / (32 * arguments["num_warps"])
    print(f"{loop / weights:.2f} instructions per weight")
    assert 1.0 < loop / weights <= most


def test_rows_few_instructions_per_weight():
    wrapper, arguments = row_forms("1.8B")["gate_up"]
    (launch,) = record(wrapper, *arguments)
    loop = loop_instructions(build, launch, 90)
    weights = 2 * launch.arguments["ROWS"] * 2048 / (32 * launch.arguments["num_warps"])
    print(f"{loop / weights:.2f} instructions per weight")
    assert 1.0 < loop / weights <= MOST_INSTRUCTIONS


TILES = {
    "down of 8": (w4a16_tiles, lambda: (meta(8, 8192), matrix(2048, 8192))),
    "down of 128": (w4a16_tiles, lambda: (meta(128, 8192), matrix(2048, 8192))),
    "qkv of 64": (w4a16_tiles, lambda: (meta(64, 2048), matrix(4096, 2048))),
    "down of 256": (w4a16_tiles, lambda: (meta(256, 8192), matrix(2048, 8192))),
    "gate_up of 256": (
        w4a16_norm_gate_up_tiles,
        lambda: (Stream(meta(256, 2048), meta(1, 256, 2048)), Norm(meta(2048), 1e-5), matrix(16384, 2048)),
    ),
    "groups of 32": (w4a16_tiles, lambda: (meta(8, 2048), matrix(2048, 2048, 32))),
    "gate_up of 8": (
        w4a16_norm_gate_up_tiles,
        lambda: (Stream(meta(8, 2048), meta(1, 8, 2048)), Norm(meta(2048), 1e-5), matrix(16384, 2048)),
    ),
    "gate_up of 64": (
        w4a16_norm_gate_up_tiles,
        lambda: (Stream(meta(64, 2048), meta(1, 64, 2048)), Norm(meta(2048), 1e-5), matrix(16384, 2048)),
    ),
}


@pytest.mark.parametrize(
    ("name", "capability"),
    [(name, 90) for name in TILES] + [("gate_up of 256", 80), ("gate_up of 64", 89), ("down of 256", 89)],
)
def test_tiles_use_tensor_cores(name, capability):
    wrapper, arguments = TILES[name]
    launch, built = compile_one(wrapper, arguments(), capability)
    warpgroups = capability == 90 and launch.arguments["TILE_M"] >= 16
    assert built.has("HGMMA" if warpgroups else "HMMA")


@pytest.mark.parametrize("name", ["down of 8", "qkv of 64", "gate_up of 256"])
def test_unpacked_weights_are_the_operand(name):
    """No trip through shared memory: what each thread unpacks is what the tensor cores want of it."""
    wrapper, arguments = TILES[name]
    _, built = compile_one(wrapper, arguments(), 90)
    assert not built.has("LDSM")


@pytest.mark.parametrize("capability", [80, 90])
def test_unpacking_stores_wide(capability):
    _, built = compile_one(unpack_triton, (matrix(4096, 2048),), capability)
    assert built.has("STG.E.128")


def random_matrix(rows, width, group):
    q = torch.randint(0, 16, (rows, width), dtype=torch.uint8)
    groups = join_groups(torch.rand(rows, width // group) * 0.02, torch.randint(0, 16, (rows, width // group)))
    return PackedMatrix(pack_words(q, group), groups, torch.randn(rows).float())


@pytest.mark.parametrize("tokens", [0, 1, 3, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_project_packed_is_the_product(tokens, dtype):
    x, packed = torch.randn(tokens, 96).to(dtype), random_matrix(40, 96, 32)
    packed = packed._replace(bias=packed.bias.to(dtype))
    got = project(x, packed).double().sum(0)
    want = linear(x.double(), unpack_matrix(packed, torch.float64), packed.bias.double())
    torch.testing.assert_close(
        got, want, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=0.1 if dtype == torch.bfloat16 else 1e-5
    )


def test_norm_gate_up_packed_refuses_odd_rows():
    stream, norm = Stream(torch.randn(1, 32), torch.zeros(0, 1, 32)), Norm(torch.ones(32), 1e-5)
    with pytest.raises(ValueError, match="even number"):
        norm_gate_up(stream, norm, random_matrix(41, 32, 32))
