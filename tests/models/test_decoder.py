"""The decoder against transformers' LlamaForCausalLM, and against itself under other schedules and layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

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
