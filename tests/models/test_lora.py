"""Low-rank updates, added while they are read."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from lmcourse.errors import CheckpointError
from lmcourse.models import Checkpoint
from lmcourse.models.lora import MergedLora, merge_lora

LORA = {"internlm_lora": {"lora_r": 2, "lora_alpha": 3}}


def folder_of(tmp_path, **tensors):
    save_file(tensors, tmp_path / "model.safetensors")
    return Checkpoint(tmp_path)


def three(dtype=torch.float32):
    shapes = {"q.weight": (5, 7), "q.lora_A.weight": (2, 7), "q.lora_B.weight": (5, 2), "k.weight": (5, 7)}
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()} | {"q.bias": torch.randn(5)}


def test_merge_lora_adds_the_scaled_product(tmp_path, seed) -> None:
    tensors = three()
    merged = merge_lora(folder_of(tmp_path, **tensors), LORA)
    assert set(merged.tensors) == {"q.weight", "q.bias", "k.weight"}
    wanted = tensors["q.weight"] + 1.5 * tensors["q.lora_B.weight"] @ tensors["q.lora_A.weight"]
    torch.testing.assert_close(merged.read("q.weight"), wanted)
    for name in ("q.bias", "k.weight"):
        assert torch.equal(merged.read(name), tensors[name])
    assert merged.num_bytes == 4 * (35 + 5 + 35)
    assert "1 of 3" in repr(merged)


def test_merge_lora_sums_in_float32_and_rounds_once(tmp_path, seed) -> None:
    tensors = three(torch.float16)
    merged = merge_lora(folder_of(tmp_path, **tensors), {"lora_cfg": {"lora_r": 2, "lora_alpha": 2}})
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    wanted = exact["q.weight"] + exact["q.lora_B.weight"] @ exact["q.lora_A.weight"]
    assert merged.read("q.weight").dtype == torch.float16
    assert (merged.read("q.weight").double() - wanted).abs().max() <= 2.0**-11 * wanted.abs().max()


def test_merge_lora_leaves_a_source_without_updates_alone(tmp_path, seed) -> None:
    source = folder_of(tmp_path, **{"q.weight": torch.randn(3, 3)})
    assert merge_lora(source, LORA) is source


@pytest.mark.parametrize(
    "change", [{"q.lora_A.weight": None}, {"q.weight": None}, {"q.lora_B.weight": torch.ones(4, 2)}]
)
def test_merge_lora_halves_that_do_not_fit(change, tmp_path, seed) -> None:
    tensors = {name: tensor for name, tensor in (three() | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match="update of q does not fit"):
        MergedLora(folder_of(tmp_path, **tensors), 1.0)
