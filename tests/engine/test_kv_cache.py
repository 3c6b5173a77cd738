"""KVCache: bytes by arithmetic, budgets, and the errors of sizes that cannot work."""

from __future__ import annotations

import pytest
import torch
from engine_fakes import mirror_spec

from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.kv_cache import (
    MIN_BLOCKS,
    KVCache,
    choose_form,
    count_affordable_blocks,
    count_block_bytes,
    measure_free_bytes,
)
from lmcourse.errors import ConfigError, MemoryBudgetError
from lmcourse.kernels import INT8
from lmcourse.spec import ModelSpec

INTERNLM2 = ModelSpec("internlm2", 2048, 24, 16, 8, 128, 8192, 92544, 32768)


def test_count_block_bytes_of_internlm2_is_six_mib() -> None:
    assert count_block_bytes(INTERNLM2, 64, torch.float16) == 6 * 2**20
    assert count_block_bytes(INTERNLM2, 64, torch.float32) == 12 * 2**20


def test_cache_has_the_layout_attention_expects() -> None:
    spec = mirror_spec(num_layers=3, num_kv_heads=2, head_dim=6)
    kv = KVCache(spec, BlockManager(5, 4), torch.float16, torch.device("cpu"))
    assert len(kv.layers) == 3
    assert {tuple(t.shape) for layer in kv.layers for t in layer} == {(5, 2, 4, 6)}
    assert all(t.is_contiguous() for layer in kv.layers for t in layer)
    assert kv.num_bytes == 5 * count_block_bytes(spec, 4, torch.float16)
    kv.layers[0].keys.fill_(1), kv.layers[0].values.fill_(2), kv.layers[2].keys.fill_(3)
    assert {kv.layers[0].keys.max().item(), kv.layers[0].values.max().item()} == {1, 2}


@pytest.mark.parametrize(("policy", "per_token"), [(0, 98304), (8, 49920), (4, 26112)])
def test_count_block_bytes_of_every_policy(policy: int, per_token: int) -> None:
    """kernel-facts §1; the cache takes exactly as much."""
    form = choose_form(policy, INTERNLM2)
    assert count_block_bytes(INTERNLM2, 64, torch.float16, form) == 64 * per_token
    kv = KVCache(INTERNLM2, BlockManager(3, 64), torch.float16, torch.device("cpu"), form)
    assert kv.num_bytes == 3 * 64 * per_token


@pytest.mark.parametrize("policy", [8, 4])
def test_cache_quantised_layers_share_nothing(policy: int) -> None:
    spec = mirror_spec(num_layers=3, num_kv_heads=2, head_dim=8)
    kv = KVCache(spec, BlockManager(5, 4), torch.float32, torch.device("cpu"), choose_form(policy, spec))
    assert all(t.is_contiguous() for layer in kv.layers for t in layer if isinstance(t, torch.Tensor))
    slots, blocks = torch.arange(20), torch.arange(5)
    written = [[torch.full((20, 2, 8), 10.0 * number + side) for side in (1, 2)] for number in range(3)]
    for layer, (keys, values) in zip(kv.layers, written, strict=True):
        layer.write(keys, values, slots)
    for layer, sides in zip(kv.layers, written, strict=True):
        for got, want in zip(layer.read(blocks), sides, strict=True):
            torch.testing.assert_close(got, want[0, 0, 0].expand(5, 2, 4, 8), rtol=1e-3, atol=0)


def test_choose_form_of_heads_that_do_not_fill_words() -> None:
    with pytest.raises(ConfigError, match="multiple of 4") as caught:
        choose_form(4, mirror_spec(head_dim=10))
    assert caught.value.where == "quant_policy"
    assert choose_form(8, mirror_spec(head_dim=10)) is INT8
    assert choose_form(0, mirror_spec(head_dim=10)) is None


def test_cache_larger_than_the_machine() -> None:
    with pytest.raises(MemoryBudgetError, match="did not give the memory"):
        KVCache(INTERNLM2, BlockManager(4, 10**10), torch.float32, torch.device("cpu"))


def test_count_affordable_blocks_share_of_free_memory() -> None:
    assert count_affordable_blocks(0.5, block_bytes=10, free_bytes=1000) == 50
    assert count_affordable_blocks(0.999, block_bytes=10, free_bytes=1000) == 99


def test_count_affordable_blocks_absolute_number() -> None:
    assert count_affordable_blocks(7, block_bytes=10, free_bytes=1000) == 7
    assert count_affordable_blocks(100, block_bytes=10, free_bytes=1000) == 100


@pytest.mark.parametrize(
    ("entry_count", "free_bytes"), [(0.01, 1000), (1, 1000), (MIN_BLOCKS - 1, 1000), (101, 1000), (0.8, 0), (0.8, -500)]
)
def test_count_affordable_blocks_too_few_or_too_many(entry_count: float, free_bytes: int) -> None:
    with pytest.raises(MemoryBudgetError, match="cache_max_entry_count") as caught:
        count_affordable_blocks(entry_count, block_bytes=10, free_bytes=free_bytes)
    assert caught.value.next_step


@pytest.mark.parametrize(("text", "total"), [(None, 2**30), ("", 2**30), ("2", 2**31), ("0.5", 2**29)])
def test_measure_free_bytes_on_cpu(monkeypatch: pytest.MonkeyPatch, text: str | None, total: int) -> None:
    monkeypatch.delenv("LMCOURSE_DEVICE_MEMORY_GIB", raising=False)
    if text is not None:
        monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", text)
    assert measure_free_bytes(torch.device("cpu"), weight_bytes=1000) == total - 1000


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan", "inf"])
def test_measure_free_bytes_wrong_budget(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", text)
    with pytest.raises(ConfigError, match="LMCOURSE_DEVICE_MEMORY_GIB"):
        measure_free_bytes(torch.device("cpu"), weight_bytes=0)


@pytest.mark.gpu
def test_measure_free_bytes_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    monkeypatch.delenv("LMCOURSE_DEVICE_MEMORY_GIB", raising=False)
    real = measure_free_bytes(device, weight_bytes=0)
    assert 0 < real <= torch.cuda.get_device_properties(device).total_memory
    weights = torch.empty(2**20, device=device)
    monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", "0.25")
    assert measure_free_bytes(device, weight_bytes=0) <= 2**28 - weights.nbytes
