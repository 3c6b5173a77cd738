"""perplexity agrees with a reckoning over the whole decoder, token by token."""

import math

import pytest
import torch
from torch.nn.functional import log_softmax

from lmcourse import model_path
from lmcourse.kernels import LayerKV, RaggedBatch
from lmcourse.lite import perplexity
from lmcourse.models import load_decoder


def by_hand(tokens, judged):
    decoder = load_decoder(model_path("tiny-chat"), dtype=torch.float32, device=torch.device("cpu"))
    total, count = 0.0, 0
    for ids, counts in zip(tokens, judged, strict=True):
        places = torch.arange(len(ids))
        kv = [LayerKV(*(torch.zeros(1, decoder.spec.num_kv_heads, 64, decoder.spec.head_dim) for _ in "kv"))
              for _ in range(decoder.spec.num_layers)]  # fmt: skip
        table = torch.zeros(1, 1, dtype=torch.int32)
        batch = RaggedBatch(places, places, table, (0, len(ids)), (len(ids),), torch.full_like(places, len(ids)), 0)
        with torch.inference_mode():
            logs = log_softmax(decoder.logits(decoder(ids, batch, kv)), -1)
        for place in range(1, len(ids)):
            if counts[place]:
                total, count = total - float(logs[place - 1, ids[place]]), count + 1
    return math.exp(total / count)


@pytest.mark.parametrize("some", [False, True])
def test_perplexity_is_the_mean_over_judged_tokens(some):
    seed = int(torch.randint(2**31, ()).item())
    print(f"seed {seed}")
    torch.manual_seed(seed)
    tokens = torch.randint(5, 4000, (3, 24))
    judged = torch.rand(3, 24) < 0.5 if some else torch.ones(3, 24, dtype=torch.bool)
    got = perplexity(model_path("tiny-chat"), tokens, judged if some else None, device="cpu")
    assert got == pytest.approx(by_hand(tokens, judged), rel=1e-4)


def test_held_out_answers_judge_what_the_model_says():
    from lmcourse.zoo.calibration import held_out_answers

    tokens, judged = held_out_answers(model_path("tiny-chat") / "tokenizer.json", samples=4, seqlen=64, seed=5)
    assert tokens.shape == judged.shape == (4, 64)
    assert 0.02 < float(judged.float().mean()) < 0.98
