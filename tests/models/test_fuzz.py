"""Whatever a config or a weight file holds, loading ends in a model or in one of our own errors."""

from __future__ import annotations

import json
import random
import warnings

from lmcourse.errors import LmcourseError
from lmcourse.models import convert, load_spec

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    [1],
    ["x"],
    [None],
    {},
    {"type": []},
    {"rope_type": "linear", "factor": []},
]
KEYS = [
    "architectures",
    "model_type",
    "quantization_config",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "dtype",
    "pad_token_id",
    "num_key_value_heads",
    "head_dim",
]


def loads_or_says_why(load, folder) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(folder)
    except LmcourseError:
        return False
    return True


def test_load_config_with_any_value_anywhere(seed, tiny_llama, write, load):
    config, tensors = tiny_llama(num_hidden_layers=1)
    folder = write((config, tensors))
    results = []
    for key in sorted({*config, *KEYS}):
        for value in VALUES:
            (folder / "config.json").write_text(json.dumps(config | {key: value}))
            results.append(loads_or_says_why(lambda path: load_spec(path), folder))
    assert True in results
    assert False in results


def test_load_weight_file_with_changed_bytes(seed, tiny_llama, write, load):
    folder = write(tiny_llama(num_hidden_layers=1))
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    chooser = random.Random(seed)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chooser.choice((1, 1, 2, 20))):
            content[chooser.randrange(header_bytes)] = chooser.choice(b'\x00\xff{}[]",:09aF ')
        file.write_bytes(bytes(content[: chooser.choice((None, None, None, chooser.randrange(len(whole))))]))
        loads_or_says_why(load, folder)


def test_load_manifest_with_any_value_anywhere(seed, tiny_llama, write, load, tmp_path):
    convert(write(tiny_llama(num_hidden_layers=1)), tmp_path / "out")
    file = tmp_path / "out" / "turbomind.json"
    content = json.loads(file.read_text())
    for key in content:
        for value in VALUES:
            file.write_text(json.dumps(content | {key: value}))
            loads_or_says_why(load, tmp_path / "out")
    for key in content["spec"]:
        for value in VALUES:
            file.write_text(json.dumps(content | {"spec": content["spec"] | {key: value}}))
            loads_or_says_why(load, tmp_path / "out")
