"""InternLM2-chat-1.8B as it is published, as far as it can be had here: config.json verbatim, random weights in its
file layout (two layers instead of 24), and in place of its SentencePiece tokenizer a small one trained on the spot.

What this cannot show, and what has never been run: the published weights and the published tokenizer.model.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from lmcourse import pipeline
from lmcourse.baseline import AutoModelForCausalLM, AutoTokenizer, generate_ids
from lmcourse.config import GenerationConfig, TurbomindEngineConfig
from lmcourse.models import load_spec
from lmcourse.spec import RotarySpec

CONFIG = (Path(__file__).parents[1] / "internlm2_chat_1_8b.json").read_text(encoding="utf-8")
SPECIAL = {
    92538: "<|plugin|>",
    92539: "<|interpreter|>",
    92540: "<|action_end|>",
    92541: "<|action_start|>",
    92542: "<|im_end|>",
    92543: "<|im_start|>",
}
NUM_LAYERS = 2
PROMPTS = ["hello", "请介绍一下你自己。", "please provide three suggestions about time management"]


def write_tokenizer(folder: Path) -> None:
    trained = io.BytesIO()
    lines = ["hello world", "please provide three suggestions about time management", "你好 世界", "给我讲个笑话"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=trained, vocab_size=360, model_type="bpe", byte_fallback=True,
        minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    settings = {
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": {str(i): {"content": token, "special": True} for i, token in SPECIAL.items()},
        "additional_special_tokens": list(SPECIAL.values()),
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>",
        "model_max_length": 1000000000000000019884624838656, "tokenizer_class": "InternLM2Tokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def random_tensors(config: dict, seed: int) -> dict[str, torch.Tensor]:
    hidden, intermediate, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = hidden // config["num_attention_heads"]
    rows = (config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * head_dim
    shapes = {"model.tok_embeddings.weight": (vocab, hidden), "output.weight": (vocab, hidden)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        shapes[at + "attention.wqkv.weight"] = (rows, hidden)
        shapes[at + "attention.wo.weight"] = (hidden, hidden)
        shapes[at + "feed_forward.w1.weight"] = shapes[at + "feed_forward.w3.weight"] = (intermediate, hidden)
        shapes[at + "feed_forward.w2.weight"] = (hidden, intermediate)
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.04, 0.04, generator=draw)
        for name, shape in shapes.items()
    }
    norms = ["model.norm.weight"]
    for i in range(config["num_hidden_layers"]):
        norms += [f"model.layers.{i}.attention_norm.weight", f"model.layers.{i}.ffn_norm.weight"]
    tensors.update({name: torch.ones(hidden, dtype=torch.bfloat16) for name in norms})
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("published") / "internlm2-chat-1_8b"
    folder.mkdir()
    (folder / "config.json").write_text(CONFIG)
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}')
    write_tokenizer(folder)
    yield folder
    (folder / "model.safetensors").unlink(missing_ok=True)  # nearly a gigabyte


def test_load_spec_of_the_config_as_it_is_published(folder):
    spec = load_spec(folder)
    assert (spec.hidden, spec.num_layers, spec.intermediate, spec.vocab) == (2048, 24, 8192, 92544)
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim) == (16, 8, 128)
    assert spec.rotary == RotarySpec(base=1e6, scaling="dynamic", factor=2.0, trained_context=32768)
    assert (spec.max_context, spec.dtype, spec.tie_embeddings, spec.eos_ids) == (32768, "bfloat16", False, (2,))


def test_pipeline_and_transformers_agree_from_end_to_end(folder, monkeypatch):
    config = json.loads(CONFIG) | {"num_hidden_layers": NUM_LAYERS}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_tensors(config, seed=20), folder / "model.safetensors")
    monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", "3")
    gen = GenerationConfig(max_new_tokens=12, ignore_eos=True)
    with pipeline(str(folder), backend_config=TurbomindEngineConfig(dtype="float32", session_len=1024)) as pipe:
        responses = pipe(PROMPTS, gen_config=gen)
        template = pipe.template
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    for prompt, response in zip(PROMPTS, responses, strict=True):
        ids = tokenizer(template.render([{"role": "user", "content": prompt}])).input_ids
        assert ids[0] == 1
        assert {92543, 92542} <= set(ids)
        assert response.input_token_len == len(ids)
        assert generate_ids(model, ids, 12) == response.token_ids
        assert tokenizer.decode(response.token_ids, skip_special_tokens=True) == response.text
