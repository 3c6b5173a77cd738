"""Shares of a model: together they are the model, and they compute what it computes."""

from __future__ import annotations

import pytest
import torch
from ranks_in_threads import run_ranks

from lmcourse import model_path
from lmcourse.errors import ConfigError
from lmcourse.layers import ALONE, cut_spec
from lmcourse.lite import AwqJob, auto_awq
from lmcourse.models import WeightStream, load_decoder, load_spec
from lmcourse.models.shares import find_share

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
PROMPTS = {"a": list(range(3, 30)), "b": [7], "c": [9, 9, 2, 40]}


def steps(decoder, open_session):
    """Logits of prompts, then of one more token each."""
    session = open_session(decoder)
    prompts = session.step(PROMPTS)
    more = session.step({name: [5] for name in PROMPTS})
    return torch.cat([part for step in (prompts, more) for part in step.values()])


def assert_same(folder, size, open_session):
    whole = load_decoder(folder, **CPU)

    def work(ranks):
        decoder = load_decoder(folder, ranks=ranks, **CPU)
        return decoder, steps(decoder, open_session)

    told = run_ranks(size, work)
    wanted = steps(whole, open_session)
    for _, logits in told:
        torch.testing.assert_close(logits, wanted, atol=2e-4, rtol=1e-4)
        assert torch.equal(logits, told[0][1]), "every rank samples from the same numbers"
    assert sum(p.numel() for p in told[0][0].parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize(("size", "kv_heads"), [(2, 2), (2, 1), (3, 3), (6, 2), (6, 3)])
def test_ranks_compute_the_whole_model(size, kv_heads, tiny_llama, relaid, write, open_session):
    changes = {"intermediate_size": 84, "num_key_value_heads": kv_heads, "attention_bias": True}
    model = tiny_llama(**changes)  # 131 tokens: no number of ranks divides them
    assert_same(write(model), size, open_session)
    assert_same(write(relaid(model), "internlm2"), size, open_session)


def test_ranks_share_tied_embeddings(tiny_llama, write, open_session):
    assert_same(write(tiny_llama(tie_word_embeddings=True, intermediate_size=84)), 2, open_session)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_read_tiny_chat(size, open_session):
    assert_same(model_path("tiny-chat"), size, open_session)


def test_rank_reads_only_its_rows(tiny_llama, write, monkeypatch):
    folder = write(tiny_llama(intermediate_size=84, num_key_value_heads=6))
    seen = []
    original = WeightStream._part

    def watch(self, source, shape, dtype=None, rows=None):
        got = original(self, source, shape, dtype, rows)
        seen.append(got.numel())
        return got

    monkeypatch.setattr(WeightStream, "_part", watch)
    load_decoder(folder, **CPU)
    whole, seen[:] = sum(seen), []
    load_decoder(folder, ranks=_Pretended(0, 2), **CPU)
    assert sum(seen) < 0.75 * whole


class _Pretended:
    """A rank that is never asked to talk."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@pytest.mark.parametrize("size", [4, 5, 7, 12])
def test_cut_spec_uneven(size, tiny_llama, write):
    spec = load_spec(write(tiny_llama()))  # 6 query heads, 2 kv heads, 80 features
    with pytest.raises(ConfigError, match=f"tp={size}"):
        cut_spec(spec, _Pretended(0, size))


def test_share_alone_is_everything(tiny_llama, write):
    spec = load_spec(write(tiny_llama()))
    assert cut_spec(spec, ALONE) is spec
    weight = torch.randn(10, 4)
    assert find_share("layers.0.attention.qkv.weight", spec, ALONE).cut(weight) is weight


def test_ranks_share_four_bit_weights(tmp_path, open_session):
    quantised = auto_awq(model_path("tiny-chat"), tmp_path / "q", AwqJob(calib_samples=1, calib_seqlen=16)).folder
    with pytest.raises(ConfigError, match="groups of 4-bit"):
        load_decoder(quantised, ranks=_Pretended(0, 4), **CPU)  # 4 query heads of 64: half a group each
    assert_same(quantised, 2, open_session)
