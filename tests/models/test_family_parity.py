"""Every text family against transformers, or a float64 reference where it has no class: logits within 1e-4 in float32.

Prompts at once, in chunks and in company of others, and decoded token by token over a paged cache. Warnings are errors,
so a stored tensor that nothing uses fails here, and a weight that nothing fills has no memory to run with.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1] / "references")])

from expert_cases import EXPERT_CASES, clearly_routed
from family_cases import CASES as DENSE_CASES
from family_cases import Case

from lmcourse.models import convert

CASES = DENSE_CASES | EXPERT_CASES
TOLERANCE = 1e-4  # of logits, float32
NUM_TOKENS = 43


def true_logits(case: Case, folder: Path, tensors: dict[str, Tensor], ids: list[int]) -> Tensor:
    if case.truth is not None:
        return importlib.import_module(f"reference_{case.truth}").logits(case.config, tensors, ids)
    from transformers import AutoModelForCausalLM

    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **eager).eval()
    with torch.no_grad():
        return model.double()(torch.tensor([ids])).logits[0]


@pytest.fixture(params=CASES)
def case(request, seed):
    return CASES[request.param]()


def random_ids(count):
    return torch.randint(67, (count,)).tolist()


def near(got, want):
    torch.testing.assert_close(got.double(), want.double(), atol=TOLERANCE, rtol=0)


def test_logits_are_the_true_ones_however_steps_are_cut(case, write, load, open_session, tmp_path):
    config, tensors = case.draw()
    folder = write((config, tensors))
    decoder = load(folder)
    ids = clearly_routed(lambda: random_ids(NUM_TOKENS), lambda ids: open_session(decoder).step({"only": ids}))
    want = true_logits(case, folder, tensors, ids)
    near(open_session(decoder).step({"only": ids})["only"], want)

    session, done = open_session(decoder), 0
    for count in (7, 19, 1, 1, 12, 1, 1, 1):  # prompt in chunks, decodes; others come and go
        company = {f"other {done}": random_ids(3), f"lone {done}": random_ids(1)}
        lens = {"only": NUM_TOKENS}  # what a prompt cut into chunks is rotated for
        near(session.step({"only": ids[done : done + count], **company}, rotary_lens=lens)["only"],
             want[done : done + count])  # fmt: skip
        done += count
    assert done == NUM_TOKENS

    convert(folder, tmp_path / "converted")
    near(open_session(load(tmp_path / "converted")).step({"only": ids})["only"], want)
