"""Accounting against figures worked out elsewhere (kernel-facts §1) and against the decoder's own weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmcourse import accounting
from lmcourse.accounting import Device, Storage
from lmcourse.spec import ExpertSpec, ModelSpec

INTERNLM2 = ModelSpec("internlm2", 2048, 24, 16, 8, 128, 8192, 92544, 32768)
LLAMA2_7B = ModelSpec("llama", 4096, 32, 32, 32, 128, 11008, 32000, 4096)
H200 = Device(bytes_per_second=4.3e12, flops_per_second=790e12)
W4 = 0.5 + 2.5 / 128


@pytest.mark.parametrize(("spec", "total"), [(INTERNLM2, 1_889_110_016), (LLAMA2_7B, 6_738_415_616)])
def test_count_parameters_published_model(spec, total):
    assert accounting.count_parameters(spec).total == total
    assert accounting.count_weight_bytes(spec) == 2 * total


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True},
        {"qkv_bias": True},
        {"output_bias": True, "mlp_bias": True},
        {"num_kv_heads": 3},
        {"layer": "parallel_one_norm", "norm": "layer", "norm_bias": True, "mlp": "plain"},
        {"layer": "parallel", "norm": "layer", "mlp": "plain", "mlp_bias": True},
        {"experts": ExpertSpec(5, 2, 9)},
        {"experts": ExpertSpec(5, 2, 9, shared_intermediate=18, shared_gate=True, dense_layers=(0,))},
    ],
)
def test_count_parameters_is_what_the_decoder_holds(changes):
    from lmcourse.models.decoder import meta_decoder

    spec = ModelSpec(**{
        "family": "llama", "hidden": 24, "num_layers": 2, "num_heads": 3, "num_kv_heads": 1,
        "head_dim": 6, "intermediate": 40, "vocab": 17, "max_context": 8,
    } | changes)  # fmt: skip
    held = sum(weight.numel() for weight in meta_decoder(spec).parameters())
    assert accounting.count_parameters(spec).total == held


MIXTRAL = replace(LLAMA2_7B, num_kv_heads=8, intermediate=14336, experts=ExpertSpec(8, 2, 14336, renormalise=True))


def test_experts_published_model_counts_what_is_held_and_what_a_token_uses():
    """Mixtral 8x7B: 46.7 billion parameters, 12.9 of them used by a token (arXiv 2401.04088 §2)."""
    assert accounting.count_parameters(MIXTRAL).total == 46_702_792_704
    used = accounting.count_streamed_bytes(MIXTRAL, batch=1) / 2 + MIXTRAL.vocab * MIXTRAL.hidden
    assert used == pytest.approx(12.88e9, rel=1e-3)
    assert accounting.count_decode_flops(MIXTRAL, 0) == pytest.approx(2 * used, rel=0.02)
    assert accounting.count_streamed_bytes(MIXTRAL, batch=64) == pytest.approx(
        accounting.count_streamed_bytes(MIXTRAL), rel=1e-6
    )


def test_count_streamed_bytes_leaves_the_embedding_out():
    assert accounting.count_streamed_bytes(INTERNLM2) / 1e9 == pytest.approx(3.399, abs=5e-4)
    assert accounting.count_streamed_bytes(LLAMA2_7B) / 1e9 == pytest.approx(13.215, abs=5e-4)


def test_count_streamed_bytes_of_tied_model_includes_the_table():
    tied = ModelSpec("llama", 8, 1, 1, 1, 8, 8, 100, 16, tie_embeddings=True)
    assert accounting.count_streamed_bytes(tied) == accounting.count_weight_bytes(tied)


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (Storage(), 98304),
        (Storage(kv_bytes=1, kv_scale_bytes=2), 49920),
        (Storage(kv_bytes=1, kv_scale_bytes=4), 50688),
        (Storage(kv_bytes=0.5, kv_scale_bytes=4), 26112),
    ],
)
def test_count_kv_bytes_per_token_internlm2(storage, expected):
    assert accounting.count_kv_bytes_per_token(INTERNLM2, storage) == expected
    assert accounting.count_kv_block_bytes(INTERNLM2, 64, storage) == 64 * expected


@pytest.mark.parametrize(
    ("spec", "storage", "context", "tokens_per_second"),
    [
        (INTERNLM2, Storage(), 0, 1265),
        (INTERNLM2, Storage(), 1024, 1229),
        (INTERNLM2, Storage(body_bytes=W4), 0, 3695),
        (INTERNLM2, Storage(body_bytes=W4), 1024, 3401),
        (INTERNLM2, Storage(body_bytes=W4, kv_bytes=1, kv_scale_bytes=2), 1024, 3540),
        (LLAMA2_7B, Storage(), 0, 325),
        (LLAMA2_7B, Storage(body_bytes=W4), 1024, 1033),
    ],
)
def test_decode_seconds_batch_of_one(spec, storage, context, tokens_per_second):
    seconds = accounting.decode_seconds(spec, H200, context=context, storage=storage)
    assert 1 / seconds == pytest.approx(tokens_per_second, abs=0.5)  # stated in whole tokens


def test_decode_seconds_large_batch_grows_with_the_cache():
    seconds = accounting.decode_seconds(INTERNLM2, H200, batch=64, context=1024)
    assert seconds * 1e3 == pytest.approx(2.289, rel=1e-3)


def test_decode_seconds_slow_arithmetic_is_bound_by_flops():
    slow = Device(bytes_per_second=1e30, flops_per_second=1e9)
    expected = 8 * accounting.count_decode_flops(INTERNLM2, 100) / 1e9
    assert accounting.decode_seconds(INTERNLM2, slow, batch=8, context=100) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("spec", "num_tokens", "teraflops"),
    [(INTERNLM2, 1024, 3.196), (INTERNLM2, 4096, 14.02), (LLAMA2_7B, 1024, 13.54), (LLAMA2_7B, 4096, 57.45)],
)
def test_count_prefill_flops_known_prompt(spec, num_tokens, teraflops):
    flops = accounting.count_prefill_flops(spec, num_tokens)
    assert flops / 1e12 == pytest.approx(teraflops, rel=2e-3)
    assert accounting.prefill_seconds(spec, H200, num_tokens=num_tokens) == pytest.approx(flops / 790e12)


def test_accounting_imports_no_torch(tmp_path):
    import subprocess
    import sys

    code = "import sys, lmcourse.accounting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
