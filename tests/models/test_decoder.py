"""The decoder against transformers' LlamaForCausalLM, and against itself under other schedules and layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmcourse.bundled import dummy_path
from lmcourse.kernels import LayerKV, RaggedBatch
from lmcourse.models import Decoder, FeatureRows
from lmcourse.models.decoder import LAYERS
from lmcourse.spec import ModelSpec

TOLERANCE = 1e-4  # of logits, float32


def transformers_logits(folder: Path, ids: list[int]) -> Tensor:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def random_ids(count: int) -> list[int]:
    return torch.randint(131, (count,)).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 1, "head_dim": 8},
        {"attention_bias": True},
        {"tie_word_embeddings": True},
        {"rope_theta": 1e6, "rms_norm_eps": 1e-3},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
        {
            "num_hidden_layers": 1,
            "intermediate_size": 7,
            "hidden_size": 10,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
        },
    ],
)
def test_forward_equals_transformers(changes, tiny_llama, write, load, open_session):
    folder = write(tiny_llama(**changes))
    ids = random_ids(61)
    logits = open_session(load(folder)).step({"only": ids})["only"]
    torch.testing.assert_close(logits, transformers_logits(folder, ids), atol=TOLERANCE, rtol=0)


def test_forward_internlm2_layout_equals_llama_layout(tiny_llama, relaid, write, load, open_session):
    model = tiny_llama(attention_bias=True)
    ids = random_ids(40)
    want = transformers_logits(write(model, "llama"), ids)
    decoder = load(write(relaid(model), "internlm2"))
    torch.testing.assert_close(open_session(decoder).step({"only": ids})["only"], want, atol=TOLERANCE, rtol=0)


def test_forward_chunked_and_batched_equals_alone(tiny_llama, write, load, open_session):
    decoder = load(write(tiny_llama()))
    ids = {name: random_ids(count) for name, count in (("a", 70), ("b", 33), ("c", 9), ("d", 1), ("e", 50))}
    alone = {name: open_session(decoder).step({name: tokens})[name] for name, tokens in ids.items()}
    session, done = open_session(decoder), dict.fromkeys(ids, 0)
    while any(done[name] < len(ids[name]) for name in ids):
        work = {}
        for name, tokens in ids.items():
            count = min(int(torch.randint(1, 20, ()).item()) if torch.rand(()) < 0.5 else 1, len(tokens) - done[name])
            if count:
                work[name] = tokens[done[name] : done[name] + count]
        for name, logits in session.step(work).items():
            want = alone[name][done[name] : done[name] + len(work[name])]
            torch.testing.assert_close(logits, want, atol=TOLERANCE, rtol=0)
            done[name] += len(work[name])


def test_forward_rope_of_transformers_5_equals_that_of_4(tiny_llama, write, load, open_session):
    config, tensors = tiny_llama(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0})
    ids = random_ids(30)
    old = open_session(load(write((config, tensors), "old"))).step({"only": ids})["only"]
    rules = {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    newer = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling", "torch_dtype")}
    newer |= {"rope_parameters": rules, "dtype": "float32"}
    new = open_session(load(write((newer, tensors), "new"))).step({"only": ids})["only"]
    assert torch.equal(old, new)


DYNAMIC = {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 32}


@pytest.mark.parametrize("chunk", [75, 20, 7])
def test_forward_dynamic_ntk_long_prompt_in_chunks_equals_transformers(chunk, tiny_llama, write, load, open_session):
    folder = write(tiny_llama(**DYNAMIC))
    ids = random_ids(75)
    session = open_session(load(folder))
    pieces = [session.step({"only": ids[i : i + chunk]}, rotary_lens={"only": 75})["only"] for i in range(0, 75, chunk)]
    torch.testing.assert_close(torch.cat(pieces), transformers_logits(folder, ids), atol=TOLERANCE, rtol=0)


def test_forward_dynamic_ntk_decodes_past_trained_context_equal_transformers(tiny_llama, write, load, open_session):
    from transformers import LlamaForCausalLM

    folder = write(tiny_llama(**DYNAMIC))
    ids = random_ids(45)
    session = open_session(load(folder))
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    cache = None
    with torch.no_grad():
        for tokens in (ids[:20], *[[token] for token in ids[20:]]):
            out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            # Company of another length must not change how this request is rotated.
            logits = session.step({"only": tokens, f"other {len(tokens)}": random_ids(3)})["only"]
            torch.testing.assert_close(logits, out.logits[0], atol=TOLERANCE, rtol=0)


def test_forward_shared_blocks_continue_a_prefix(tiny_llama, write, load, open_session):
    decoder = load(write(tiny_llama()))
    ids = random_ids(30)
    alone = open_session(decoder).step({"only": ids})["only"]
    session = open_session(decoder)
    session.step({"first": ids[:16]})
    session.tables["second"], session.lengths["second"] = session.tables["first"][:2], 16
    torch.testing.assert_close(session.step({"second": ids[16:]})["second"], alone[16:], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.2), (torch.float16, 0.03)])
def test_forward_half_precision_is_near_float32(dtype, tolerance, tiny_llama, write, load, open_session):
    folder = write(tiny_llama())
    ids = random_ids(40)
    want = open_session(load(folder)).step({"only": ids})["only"]
    decoder = load(folder, dtype=dtype)
    assert decoder.dtype == dtype
    got = open_session(decoder).step({"only": ids})["only"]
    assert got.dtype == torch.float32
    error = (got - want).abs().max() / want.abs().max()
    assert error < tolerance


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_forward_of_some_rows_equals_those_of_all(layer):
    seed = torch.seed()
    print(f"seed {seed}")
    spec = ModelSpec("llama", 32, 2, 4, 2, 8, 24, 50, 64, layer=layer, picture_rank=4 * (layer == "pictured"))
    decoder = Decoder(spec)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    positions, ids = torch.tensor([4, *range(9)]), torch.randint(50, (10,))  # one decodes, one is a prompt
    tables = torch.tensor([[0], [1]], dtype=torch.int32)
    slots = torch.tensor([4, *range(16, 25)])
    batch = RaggedBatch(positions, slots, tables, (0, 1, 10), (5, 9), positions + 1, num_decodes=1)
    pictured = FeatureRows(torch.tensor([2, 3, 9]), torch.randn(3, 32)) if layer == "pictured" else None
    caches = [[LayerKV(*(torch.zeros(2, 2, 16, 8) for _ in "kv")) for _ in range(2)] for _ in range(2)]
    with torch.inference_mode():
        want = decoder(ids, batch, caches[0], pictured)
        for rows in ([9], [0, 9], [9, 2, 2, 0], list(range(10))):
            got = decoder(ids, batch, caches[1], pictured, torch.tensor(rows))
            torch.testing.assert_close(got, want[rows], atol=1e-5, rtol=1e-5)
    for kv, other in zip(*caches, strict=True):
        assert torch.equal(kv.keys, other.keys)
        assert torch.equal(kv.values, other.values)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2), (torch.float16, 0.03)])
def test_forward_on_cuda_is_near_float32_on_cpu(dtype, tolerance, tiny_llama, write, load, open_session):
    folder = write(tiny_llama(head_dim=32))
    ids = {"a": random_ids(40), "b": random_ids(1), "c": random_ids(1), "d": random_ids(33)}
    want = open_session(load(folder)).step(ids)
    got = open_session(load(folder, dtype=dtype, device=torch.device("cuda"))).step(ids)
    for name, logits in want.items():
        error = (got[name].cpu() - logits).abs().max() / logits.abs().max()
        assert error < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [1, 5, 40])
def test_packed_weights_on_cuda_are_near_float32_on_cpu(num_tokens, load, open_session):
    folder, ids = dummy_path("dummy:tiny:awq"), {"a": random_ids(num_tokens)}
    want = open_session(load(folder)).step(ids)["a"]
    got = open_session(load(folder, dtype=torch.float16, device=torch.device("cuda"))).step(ids)["a"].cpu()
    assert (got - want).abs().max() / want.abs().max() < 0.03
