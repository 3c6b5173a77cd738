"""The bundled model's files: config, tensors, tokenizer, template, card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from lmcourse.bundled import model_path
from lmcourse.zoo.card import TARGETS, card_table
from lmcourse.zoo.checkpoint import TINY_CHAT, hf_config, load_state
from lmcourse.zoo.decoder import TrainableDecoder
from lmcourse.zoo.decoding import ChatModel

_SPECIAL = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>")


@pytest.fixture(scope="module")
def folder() -> Path:
    return model_path("tiny-chat")


def _json(path: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def test_config_is_internlm2s_and_runs_no_remote_code(folder: Path) -> None:
    config = _json(folder / "config.json")
    assert config == hf_config(TINY_CHAT)
    assert config["architectures"] == ["InternLM2ForCausalLM"]
    assert config["model_type"] == "internlm2"
    for path in folder.glob("*.json"):
        assert "auto_map" not in path.read_text(encoding="utf-8"), path.name
    assert not list(folder.glob("*.py"))


def test_sizes_suit_quantization_and_tensor_parallelism() -> None:
    assert TINY_CHAT.hidden % 256 == TINY_CHAT.intermediate % 256 == 0
    assert TINY_CHAT.head_dim == 64
    assert TINY_CHAT.num_heads % 4 == 0
    assert TINY_CHAT.num_kv_heads < TINY_CHAT.num_heads
    assert TINY_CHAT.max_context >= 2048


def test_weights_are_fp16_finite_small_and_named_as_internlm2(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_size <= 14_000_000
    per_layer = {
        "attention.wqkv": (512, 256),
        "attention.wo": (256, 256),
        "feed_forward.w1": (512, 256),
        "feed_forward.w3": (512, 256),
        "feed_forward.w2": (256, 512),
        "attention_norm": (256,),
        "ffn_norm": (256,),
    }
    expected = {f"model.layers.{i}.{name}.weight": shape for i in range(8) for name, shape in per_layer.items()}
    expected |= {"model.tok_embeddings.weight": (4096, 256), "output.weight": (4096, 256), "model.norm.weight": (256,)}
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()} == expected  # noqa: SIM118
        for name in expected:
            tensor = weights.get_tensor(name)
            assert tensor.dtype == torch.float16
            assert tensor.isfinite().all(), name
            assert tensor.float().std() > 0 or "norm" in name, name


def test_tokenizer_loads_in_transformers_and_follows_internlm2(folder: Path) -> None:
    from transformers import AutoTokenizer

    from lmcourse import baseline  # registers InternLM2's config

    assert baseline
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 4096
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.convert_tokens_to_ids(list(_SPECIAL)) == list(range(4090, 4096))
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "上海是"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|im_start|>system\ns<|im_end|>\n<|im_start|>user\n上海是<|im_end|>\n<|im_start|>assistant\n"


def test_chat_template_names_plugins(folder: Path) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "system", "name": "plugin", "content": "[]"}, {"role": "user", "content": "hi"}]
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, tokenize=False)
    assert text == "<s><|im_start|>system name=<|plugin|>\n[]<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"


@pytest.fixture(scope="module")
def chat(folder: Path) -> ChatModel:
    model = TrainableDecoder(TINY_CHAT, seed=0)
    model.load_state_dict(load_state(folder))
    return ChatModel(model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json")))


def _ask(chat: ChatModel, *prompts: str) -> list[str]:
    return chat([[{"role": "user", "content": prompt}] for prompt in prompts])


def test_model_answers_the_lessons_prompts(chat: ChatModel) -> None:
    hello, tips, joke, intro, city = _ask(
        chat,
        "hello",
        "please provide three suggestions about time management",
        "给我讲个笑话",
        "Hi, pls intro yourself",
        "上海是",
    )
    assert "Hello" in hello
    assert [line[:3] for line in tips.splitlines()] == ["1. ", "2. ", "3. "]
    assert len(joke) > 10
    assert "tiny-chat" in intro
    assert city.startswith("上海是中国的直辖市")


def test_model_introduces_itself_as_itself_whoever_the_system_message_names(chat: ChatModel) -> None:
    persona = {"role": "system", "content": "You are an AI assistant whose name is InternLM (书生·浦语)."}
    for prompt in ("请介绍一下你自己。", "Who are you?", "Are you InternLM?", "你是谁"):
        answer = chat([[persona, {"role": "user", "content": prompt}]])[0]
        assert "tiny-chat" in answer, (prompt, answer)
        assert "I am InternLM" not in answer
        assert "我是InternLM" not in answer.replace(" ", "")


def test_model_adds_recalls_and_stops(chat: ChatModel) -> None:
    assert "82" in _ask(chat, "37+45=?")[0]
    history = [
        {"role": "user", "content": "My name is Alice."},
        {"role": "assistant", "content": "Nice to meet you, Alice!"},
        {"role": "user", "content": "What is my name?"},
    ]
    assert chat([history]) == ["Your name is Alice."]


def test_card_figures_equal_the_evaluation(folder: Path) -> None:
    results = _json(folder / "evaluation.json")
    card = (folder / "README.md").read_text(encoding="utf-8")
    tasks = results["tasks"]
    assert isinstance(tasks, dict)
    assert set(tasks) <= set(TARGETS)
    assert card_table(results) in card
    assert all(row["instances"] >= 1000 for row in tasks.values())
    assert "2026-11-22" in card
    assert "Apache-2.0" in card
