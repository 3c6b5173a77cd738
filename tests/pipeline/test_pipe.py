"""pipeline() and Pipeline: what users may pass, and what comes back."""

import dataclasses
import pickle
from types import SimpleNamespace

import pytest

from lmcourse import ChatTemplateConfig, GenerationConfig, Response, TurbomindEngineConfig, model_path, pipeline
from lmcourse.errors import (
    ConfigError,
    EngineClosedError,
    LmcourseError,
    ModelNotFoundError,
    PromptError,
    UnsupportedModelError,
)
from lmcourse.pipeline import Pipeline
from lmcourse.text.chat_template import TEMPLATES
from lmcourse.text.tokenizer import Tokenizer

TWO = GenerationConfig(max_new_tokens=2)


def test_one_prompt_gives_one_response_and_a_list_gives_a_list(fake):
    response = fake("hello", TWO)
    assert isinstance(response, Response)
    assert (response.text, response.finish_reason, response.token_ids) == ("0.0 0.1 ", "length", [0, 1])
    assert (response.generate_token_len, response.input_token_len) == (2, len(fake.engine.added[0].prompt_ids))
    assert [r.text for r in fake(["a"], TWO)] == ["1.0 1.1 "]
    assert [r.session_id for r in fake(["a", "b", "c"], TWO)] == [0, 1, 2]
    assert fake([], TWO) == []


def test_every_form_of_prompt_reaches_the_engine_as_meant(fake, tokenizer):
    conversation = [{"role": "user", "content": "hello"}]
    fake(["hello", conversation, {"prompt_token_ids": [7, 8, 9]}], TWO)
    fake(conversation, TWO)
    fake({"prompt_token_ids": (1, 1)}, TWO)
    fake("hello", do_preprocess=False, max_new_tokens=1)
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    wrapped = tokenizer.encode(text, add_bos=True)
    assert wrapped[0] == tokenizer.bos_id
    plain = tokenizer.encode("hello", add_bos=True)
    assert [row.prompt_ids for row in fake.engine.added] == [wrapped, wrapped, [7, 8, 9], wrapped, [1, 1], plain]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", "is empty"),
        (["fine", ""], "prompt 1"),
        (["fine", "x" * 2000], "prompt 1"),
        (None, "not a prompt"),
        (3, "not a prompt"),
        ([1, 2], "ids or a batch"),
        ({"role": "user", "content": "x"}, "into a list"),
        ({"prompt_token_ids": [1], "x": 1}, "nothing else"),
        ({"prompt_token_ids": "12"}, "whole numbers"),
        ({"prompt_token_ids": [1.5]}, "whole numbers"),
        ({"prompt_token_ids": [[1]]}, "whole numbers"),
        (("what is this", object()), "no images"),
        ([("what is this", object())], "no images"),
        ([None], "a text or a list"),
        (("what is this", "cat.jpg"), "two prompts, or a text and the path of an image"),
    ],
)
def test_bad_prompts_are_named_errors_and_leave_nothing_behind(fake, prompts, message):
    with pytest.raises(PromptError, match=message):
        fake(prompts, TWO)
    assert not fake.engine.running
    assert fake("hello", TWO).finish_reason == "length"


def test_stop_words_of_the_template_are_ids_where_they_can_be(fake, tokenizer):
    fake("hello", stop_words=["END"], max_new_tokens=1)
    added = fake.engine.added[0]
    ids = {tokenizer.token_id(word) for word in ("<|im_end|>", "<|action_end|>", "</s>")}
    assert added.stop_ids == ids
    assert added.gen.stop_words == ["END"]


def test_stop_words_that_are_no_token_stay_words(tokenizer):
    template = dataclasses.replace(TEMPLATES["internlm2"], stop_words=("<eoa>", "<|im_end|>"))
    pipe = Pipeline(SimpleNamespace(tokenizer=tokenizer, spec=SimpleNamespace(vocab=4096)), template)
    assert pipe.with_stops(GenerationConfig(stop_words=["END"]), 0).stop_words == ["END", "<eoa>"]
    assert pipe.with_stops(GenerationConfig(ignore_eos=True), 0).stop_words is None


def test_without_settings_the_answer_is_greedy_and_keywords_are_generation_settings(fake):
    fake("hello")
    fake("hello", request_output_len=3, top_k=40, top_p=0.8, temperature=0.8, repetition_penalty=1.0, ignore_eos=False)
    plain, sampled = (row.gen for row in fake.engine.added)
    assert plain == GenerationConfig()
    assert not plain.samples
    assert sampled == GenerationConfig(max_new_tokens=3, top_k=40, top_p=0.8, temperature=0.8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_kk": 3}, "did you mean 'top_k'"),
        ({"temperature": -1.0}, "out of range"),
        ({"temperature": float("nan")}, "out of range"),
        ({"adapter_name": "lora"}, "adapters"),
        ({"gen_config": TWO, "top_k": 3}, "given twice"),
        ({"gen_config": [TWO]}, "does not fit"),
        ({"gen_config": {"top_k": 3}}, "does not fit"),
    ],
)
def test_bad_settings_are_named_errors(fake, settings, message):
    with pytest.raises(ConfigError, match=message):
        fake(["a", "b"], **settings)
    assert not fake.engine.added


def test_each_prompt_may_have_its_own_settings(fake):
    lengths = [3, 1, 2]
    responses = fake(["a", "b", "c"], [GenerationConfig(max_new_tokens=n) for n in lengths])
    assert [r.generate_token_len for r in responses] == lengths


def test_n_answers_are_a_list_and_differ_in_their_seeds(fake):
    one, two = fake(["a", "b"], GenerationConfig(n=3, random_seed=2**64 - 1, max_new_tokens=1))
    assert [r.index for r in one] == [r.index for r in two] == [0, 1, 2]
    assert [r.session_id for r in one + two] == [0, 0, 0, 1, 1, 1]
    assert [row.gen.random_seed for row in fake.engine.added[:3]] == [2**64 - 1, 0, 1]
    assert all(row.gen.n == 1 for row in fake.engine.added)
    assert [r.text for r in fake("a", n=2, max_new_tokens=1)] == ["6.0 ", "7.0 "]


def test_close_ends_everything_once(fake):
    stream = fake.stream_infer("hello", TWO)
    next(stream)
    fake.close()
    fake.close()
    with pytest.raises(EngineClosedError):
        next(stream)
    with pytest.raises(EngineClosedError):
        fake("hello")
    stream.close()


# With the real engine


def test_real_batch_longer_than_max_batch_size_equals_one_by_one(real):
    prompts = [f"{i} plus {i * 7} is" for i in range(8)]
    alone = [real(prompt, max_new_tokens=6 + i).token_ids for i, prompt in enumerate(prompts)]
    together = real(prompts, [GenerationConfig(max_new_tokens=6 + i) for i in range(8)])
    assert [r.token_ids for r in together] == alone
    real.engine.check()


def test_real_answer_is_capped_by_the_session(real):
    response = real("hello", max_new_tokens=10_000, ignore_eos=True)
    assert response.finish_reason == "length"
    assert response.input_token_len + response.generate_token_len == real.session_len == 96


def test_real_seeded_first_of_n_equals_n_of_one(real):
    settings = {"temperature": 4.0, "random_seed": 11, "max_new_tokens": 12, "ignore_eos": True}
    three = real("hello", n=3, **settings)
    assert three[0].token_ids == real(["other", "hello"], **settings)[1].token_ids
    assert three[1].token_ids != three[0].token_ids


def test_real_numpy_and_torch_ids_are_ids(real):
    import numpy
    import torch

    ids = [1, 300, 400]
    expected = real({"prompt_token_ids": ids}, max_new_tokens=3).token_ids
    for form in (numpy.array(ids), torch.tensor(ids), list(numpy.array(ids)), iter(ids)):
        assert real({"prompt_token_ids": form}, max_new_tokens=3).token_ids == expected


# Making a pipeline


def test_pipeline_default_model_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCOURSE_MODEL", str(tmp_path / "nothing"))
    with pytest.raises(ModelNotFoundError, match="nothing"):
        pipeline()


def test_pipeline_of_an_unknown_architecture_speaks_of_the_model_and_not_of_its_template(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}')
    with pytest.raises(UnsupportedModelError, match="no family of the table has this architecture"):
        pipeline(tmp_path)


def test_real_pipeline_is_not_for_other_processes(real):
    with pytest.raises(EngineClosedError, match="cannot be copied"):
        pickle.dumps(real)


def test_pipeline_template_can_be_named_in_three_places(monkeypatch):
    from lmcourse.engine import Engine

    monkeypatch.setattr(Engine, "from_folder", classmethod(lambda cls, folder, config: Made(folder, config)))
    folder = model_path("tiny-chat")
    config = TurbomindEngineConfig(model_name="gemma")
    assert pipeline("tiny-chat", "vicuna").template.name == "vicuna"
    assert pipeline("tiny-chat", backend_config=config).template.name == "gemma"
    assert pipeline(folder, chat_template_config=ChatTemplateConfig("yi", "Hi.")).template.name == "yi"
    assert pipeline(str(folder), "gemma", config).template.name == "gemma"
    with pytest.raises(ConfigError, match="given twice"):
        pipeline("tiny-chat", "vicuna", config)


class Made:
    """Stands in for an engine, which is not what these tests are about."""

    def __init__(self, folder, config):
        self.tokenizer, self.spec = Tokenizer.from_folder(folder), SimpleNamespace(vocab=4096)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"session_len": 8192}, "TurbomindEngineConfig"),
        ({"backend_confg": None}, "did you mean 'backend_config'"),
        ({"trust_remote_code": True}, "remove it"),
        ({"backend_config": {"tp": 1}}, "wrong type"),
        ({"chat_template_config": "internlm2"}, "wrong type"),
        ({"model_name": "internlm9"}, "no chat template is called"),
        ({"log_level": "LOUD"}, "not a level"),
        ({"model_path": "dummy:gpt-2"}, "no model with random weights"),
    ],
)
def test_pipeline_bad_arguments_are_named_errors(arguments, message):
    with pytest.raises(LmcourseError, match=message):
        pipeline(**{"model_path": "tiny-chat", **arguments})
