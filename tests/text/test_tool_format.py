"""ToolFormat against what tiny-chat was trained on, which follows InternLM's published chat format."""

from __future__ import annotations

import json

from lmcourse.bundled import model_path
from lmcourse.text.chat_template import find_template
from lmcourse.text.template_table import TEMPLATES
from lmcourse.text.tokenizer import Tokenizer
from lmcourse.text.tool_format import INTERNLM2_TOOLS as FORM
from lmcourse.zoo.scenes.tools import Kind, Tool, call


def test_write_call_is_what_training_wrote() -> None:
    tool = Tool(Kind(("weather",), "", (), ()), "weather", (("city", "place"),))
    for city in ("Paris", "北京", 'a "quoted" place'):
        arguments = json.dumps({"place": city}, ensure_ascii=False)
        assert FORM.write_call("weather", arguments) == call(tool, {"city": city})


def test_messages_render_as_published() -> None:
    functions = [{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}]
    messages = [
        FORM.list_message(functions),
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": FORM.write_call("f", "{}")},
        FORM.result_message('{"result": 1}'),
    ]
    assert TEMPLATES["internlm2"].render(messages) == (
        f"<|im_start|>system name=<|plugin|>\n{json.dumps(functions)}<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n"
        '<|im_start|>assistant\n<|action_start|><|plugin|>\n{"name": "f", "parameters": {}}<|action_end|><|im_end|>\n'
        '<|im_start|>environment name=<|plugin|>\n{"result": 1}<|im_end|>\n'
        "<|im_start|>assistant\n"
    )


def test_marks_are_single_tokens_of_the_bundled_model() -> None:
    tokenizer = Tokenizer.from_folder(model_path("tiny-chat"))
    for mark in (*FORM.call_marks, FORM.call_end):
        assert tokenizer.token_id(mark) in tokenizer.special_ids
    assert find_template(None, model_path("tiny-chat")).tools is FORM


def test_families_without_tools_say_so() -> None:
    assert [name for name, template in TEMPLATES.items() if template.tools] == ["internlm2"]
