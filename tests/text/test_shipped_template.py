"""match_shipped: the marks of a model's own template against those of the one chosen by its architecture."""

import json
import warnings

import pytest

from lmcourse import model_path
from lmcourse.text.chat_template import TEMPLATES, find_template
from lmcourse.text.shipped_template import match_shipped

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
ZEPHYR = (
    "{% if s %}{{ '<|system|>\n' + s + eos_token }}{% endif %}{{ '<|user|>\n' + u + eos_token }}{{ '<|assistant|>' }}"
)
OTHER = "{{ 'GPT4 Correct User: ' + u + '<|end_of_turn|>' + 'GPT4 Correct Assistant:' }}"
LLAMA2 = "{{ bos_token + '[INST] <<SYS>>\n' + system + '\n<</SYS>>\n\n' + content + ' [/INST]' }}"
MISTRAL = "{{ bos_token + '[INST] ' + content + ' [/INST]' }}"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    return tmp_path


def ship(folder, text, where):
    if where == "chat_template.jinja":
        (folder / where).write_text(text)
    else:
        stated = [{"name": "default", "template": text}, {"name": "tool_use", "template": "{{ tools }}"}]
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"chat_template": text if where == "text" else stated})
        )


@pytest.mark.parametrize("where", ["chat_template.jinja", "text", "list"])
@pytest.mark.parametrize(
    ("text", "name"), [(CHATML, "chatml"), (ZEPHYR, "zephyr"), (MISTRAL, "mistral"), (LLAMA2, "mistral")]
)
def test_template_follows_the_marks_of_the_models_own(folder, where, text, name):
    ship(folder, text, where)
    assert find_template(None, folder).name == name


@pytest.mark.parametrize(
    ("text", "name"), [(LLAMA2, "llama2"), (MISTRAL, "mistral"), ("USER: {{ m }} ASSISTANT:", "vicuna")]
)
def test_template_of_another_family_is_found_by_all_of_its_marks(folder, text, name):
    ship(folder, text, "text")
    assert match_shipped("qwen", folder) == name


def test_template_of_unknown_marks_is_a_warning_that_says_what_to_do(folder):
    ship(folder, OTHER, "chat_template.jinja")
    with pytest.warns(UserWarning, match="--model-name"):
        assert find_template(None, folder).name == "mistral"
    assert find_template("chatml", folder).name == "chatml"  # named: not asked


def test_zephyrs_prompt_is_what_its_own_template_writes():
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    wanted = "<|system|>\nBe kind.</s>\n<|user|>\nhi</s>\n<|assistant|>\n"
    assert TEMPLATES["zephyr"].render(talk) == wanted


@pytest.mark.parametrize("shipped", ["", "{}", '{"chat_template": null}', '{"chat_template": [1, {"name": 2}]}'])
def test_without_a_template_of_its_own_the_architecture_decides(folder, shipped):
    if shipped:
        (folder / "tokenizer_config.json").write_text(shipped)
    assert find_template(None, folder).name == "mistral"


def test_each_templates_own_marks_are_recognised(folder):
    for name, template in TEMPLATES.items():
        ship(folder, template.begin + template.user.before + template.cue, "text")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert match_shipped(name, folder) == name
    for model, name in (("tiny-chat", "internlm2"), ("tiny-llava", "vicuna")):
        assert find_template(None, model_path(model)).name == name
