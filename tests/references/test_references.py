"""The references import nothing of the package, and agree with transformers where an architecture is also there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.append(str(HERE))
NAMES = sorted(path.stem for path in HERE.glob("reference_*.py"))


def test_references_know_nothing_of_the_package():
    for name in NAMES:
        assert not re.search(r"^\s*(import|from)\s+lmcourse", (HERE / f"{name}.py").read_text(), re.MULTILINE)
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import {', '.join(NAMES)}; sys.exit('lmcourse' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_internlm_without_biases_is_llama():
    from reference_internlm import logits
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=37, hidden_size=30, intermediate_size=44, num_hidden_layers=2, num_attention_heads=5, head_dim=6
    )
    model = LlamaForCausalLM(config).double().eval()
    tensors = {name: tensor.normal_(0.3, 0.3) for name, tensor in model.state_dict().items()}
    ids = torch.randint(37, (19,)).tolist()
    got = logits(config.to_dict(), tensors, ids)
    torch.testing.assert_close(got, model(torch.tensor([ids])).logits[0].detach(), atol=1e-5, rtol=0)


def test_falcon_rw_is_transformers_where_its_rounding_is_exact():
    """With eight heads and few tokens slope · position loses nothing in bfloat16."""
    from reference_falcon_rw import logits
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"vocab_size": 37, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 8}
    kind = {"alibi": True, "bias": True, "parallel_attn": False, "multi_query": False}
    model = FalconForCausalLM(FalconConfig(**sizes, **kind, attn_implementation="sdpa")).double().eval()
    tensors = {name: tensor.normal_(0.1, 0.3) for name, tensor in model.state_dict().items()}
    ids = torch.randint(37, (19,)).tolist()
    published = {"n_head": 8, "n_layer": 2, "hidden_size": 48, "layer_norm_epsilon": 1e-5}
    want = model(torch.tensor([ids])).logits[0].detach()
    torch.testing.assert_close(logits(published, tensors, ids), want, atol=1e-5, rtol=0)
