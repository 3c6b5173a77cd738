"""Compiles what a wrapper would launch, for a GPU that is not here, and reads the machine code.

`record(wrapper, *arguments)` runs a wrapper on tensors of the meta device and keeps its launches; `build` compiles one
for a compute capability and counts registers, spills, shared memory and instructions with the tools of Triton's wheel.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from lmcourse.kernels import lang

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_BYTES = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}  # most that one program may have
POINTERS = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32",
    torch.int16: "*i16", torch.uint8: "*u8", torch.int8: "*i8",
    torch.float64: "*fp64",
}  # fmt: skip


@dataclass
class Launch:
    kernel: JITFunction
    grid: tuple[int, ...]
    arguments: dict


@dataclass
class Built:
    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int
    code: list[str]  # SASS mnemonics
    counts: Counter

    def has(self, *mnemonics: str) -> bool:
        return any(name.startswith(mnemonics) for name in self.counts)


def record(wrapper, *arguments, capability=(9, 0)) -> list[Launch]:
    """The launches of one call of a wrapper; nothing is compiled or run."""
    launches = []

    def run(self, *args, grid, warmup, **keywords):
        names = [parameter.name for parameter in self.params]
        launches.append(Launch(self, grid, {**dict(zip(names, args, strict=False)), **keywords}))

    with mock.patch.object(JITFunction, "run", run), mock.patch.object(lang, "capability", return_value=capability):
        wrapper(*arguments)
    return launches


def build(launch: Launch, capability: int) -> Built:
    names = [parameter.name for parameter in launch.kernel.params]
    constants = {parameter.name for parameter in launch.kernel.params if parameter.is_constexpr}
    signature, constexprs, attributes = {}, {}, {}
    for position, name in enumerate(names):
        value = launch.arguments[name]
        if name in constants or value is None or (isinstance(value, int) and value == 1):
            signature[name], constexprs[name] = "constexpr", value
        elif isinstance(value, TensorDescriptor):
            signature[name] = f"tensordesc<{POINTERS[value.base.dtype][1:]}{list(value.block_shape)}>"
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[(position,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(position,)] = [["tt.divisibility", 16]]
    options = {key: value for key, value in launch.arguments.items() if key not in names}
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(
        ASTSource(launch.kernel, signature, constexprs, attributes), target=target, options=options
    )
    return read_code(compiled)


def read_code(compiled) -> Built:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
        text = subprocess.run([TOOLS / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    code = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)", text, re.MULTILINE)
    numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return Built(
        registers=int(numbers["REG"]),
        spill_bytes=int(numbers["STACK"]) + int(numbers["LOCAL"]),
        shared_bytes=compiled.metadata.shared,
        warps=compiled.metadata.num_warps,
        code=code,
        counts=Counter(code),
    )
