"""A layer asked for its inputs one by one does what it does in one go, before and after its matrices change."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1] / "models"))
from expert_cases import EXPERT_CASES
from family_cases import CASES

from lmcourse.lite.held_tensors import HeldTensors, held_weights, read_layer
from lmcourse.lite.layer_inputs import LayerInputs, LayerRunner, matrix_names
from lmcourse.lite.layer_path import LayerPath, side_by_side
from lmcourse.lite.visits import open_source


@pytest.mark.parametrize("family", ["Falcon 7B", "Falcon RW", "QWen", "Gemma 2B", "Mixtral", "Dbrx", "DeepSeek-MoE"])
def test_path_gives_what_the_runner_sees(family, tmp_path):
    seed = int(torch.randint(2**31, ()).item())
    print(f"seed {seed}")
    torch.manual_seed(seed)
    config, tensors = (CASES.get(family) or EXPERT_CASES[family])().draw()
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = open_source(tmp_path, torch.device("cpu"))
    runner = LayerRunner(weights.spec, num_samples=5, seqlen=11, batch_size=2)
    hidden = torch.randn(55, weights.spec.hidden)
    inputs, whole = LayerInputs(), hidden.clone()
    runner.run(read_layer(weights, 1), whole, inputs=inputs)
    path = LayerPath(read_layer(weights, 1), hidden.clone(), runner)
    for matrix in matrix_names(weights.spec, 1):
        moments = side_by_side(path, path, matrix)
        torch.testing.assert_close(moments.second, inputs.stats(matrix).second_moment, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(moments.cross, moments.second, rtol=1e-4, atol=1e-4)
    path.finish()
    torch.testing.assert_close(path._hidden, whole, rtol=1e-4, atol=1e-4)


def test_held_tensors_make_the_same_layer(tmp_path):
    config, tensors = CASES["QWen1.5"]().draw()
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = open_source(tmp_path, torch.device("cpu"))
    layer, again = (read_layer(stream, 2) for stream in (weights, held_weights(weights, tensors)))
    assert all(torch.equal(one, two) for one, two in zip(layer.parameters(), again.parameters(), strict=True))
    held = HeldTensors(tmp_path, tensors)
    assert held.num_bytes == sum(tensor.nbytes for tensor in tensors.values())
    with pytest.raises(KeyError):
        held.read_words("lm_head.weight")
