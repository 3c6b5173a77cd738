"""model.chat and model.cuda, on the bundled model and on a model whose answers are scripted."""

from __future__ import annotations

import pytest
import torch

from lmcourse.baseline import AutoModelForCausalLM, AutoTokenizer
from lmcourse.errors import PromptError


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained("tiny-chat")


@pytest.fixture
def model():
    return AutoModelForCausalLM.from_pretrained("tiny-chat")


@pytest.fixture
def scripted(model, tokenizer, monkeypatch):
    """A model that answers with given text, and keeps what it was asked."""

    def script(answer: str):
        asked = {}

        def generate(ids, **settings):
            asked.update(settings, ids=ids[0].tolist())
            more = tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids
            return torch.cat([ids, more], dim=1)

        monkeypatch.setattr(model, "generate", generate)
        return asked

    return script


def test_chat_renders_internlm2_and_stops_at_the_end_of_the_turn(model, tokenizer, scripted):
    asked = scripted("Hello!<|im_end|>\n<|im_start|>")
    response, history = model.chat(tokenizer, "hello", history=[("你好", "hi")], meta_instruction="Be brief.")
    assert response == "Hello!"
    assert history == [("你好", "hi"), ("hello", "Hello!")]
    assert tokenizer.decode(asked["ids"]) == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert asked["ids"][0] == tokenizer.bos_token_id
    assert {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")} <= set(asked["eos_token_id"])


def test_chat_is_greedy_unless_told_otherwise(model, tokenizer, scripted):
    asked = scripted("x")
    model.chat(tokenizer, "hello")
    assert asked["do_sample"] is False
    model.chat(tokenizer, "hello", do_sample=True, temperature=0.8, top_p=0.8)
    assert (asked["do_sample"], asked["temperature"]) == (True, 0.8)


def test_chat_never_changes_the_history_it_was_given(model, tokenizer, scripted):
    scripted("x")
    history = [("a", "b")]
    _, longer = model.chat(tokenizer, "c", history=history)
    assert history == [("a", "b")]
    assert longer == [("a", "b"), ("c", "x")]


def test_chat_caps_the_answer_at_the_context(model, tokenizer, scripted):
    asked = scripted("x")
    model.chat(tokenizer, "hello " * 500)
    room = model.config.max_position_embeddings - len(asked["ids"])
    assert asked["max_new_tokens"] == min(1024, room)


def test_chat_whose_history_fills_the_context_is_an_error(model, tokenizer):
    with pytest.raises(PromptError, match="2048"):
        model.chat(tokenizer, "hello", history=[("hello " * 1500, "x" * 3000)])


def test_chat_of_the_bundled_model_repeats_itself(model, tokenizer):
    first, history = model.chat(tokenizer, "hello", history=[], max_new_tokens=24)
    again, _ = model.chat(tokenizer, "hello", history=[], max_new_tokens=24)
    assert first == again
    assert history == [("hello", first)]
    assert "<|im_" not in first


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize(
    ("before", "after"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)],
)
def test_cuda_without_a_gpu_stays_and_says_so(capsys, before, after):
    model = AutoModelForCausalLM.from_pretrained("tiny-chat", torch_dtype=before).cuda()
    assert model.dtype == after
    assert model.device.type == "cpu"
    said = capsys.readouterr().out
    assert "stays on the CPU" in said
    assert str(after).removeprefix("torch.") in said


@pytest.mark.gpu
def test_cuda_with_a_gpu_moves_and_says_which(capsys):
    model = AutoModelForCausalLM.from_pretrained("tiny-chat", torch_dtype=torch.float16).cuda()
    assert (model.device.type, model.dtype) == ("cuda", torch.float16)
    assert torch.cuda.get_device_name() in capsys.readouterr().out
