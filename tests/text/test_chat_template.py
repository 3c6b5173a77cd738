"""Chat templates against independent jinja templates (run by transformers) and against strings written out by hand."""

import json

import pytest

from lmcourse.bundled import model_path
from lmcourse.config import ChatTemplateConfig
from lmcourse.errors import CheckpointError, ConfigError, PromptError
from lmcourse.text.chat_template import TEMPLATES, find_template, template_names

CHATML_JINJA = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
QWEN_JINJA = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + CHATML_JINJA
)
LLAMA2_JINJA = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}"
    "{{ ('' if loop.first else '<s>') + '[INST] ' + (system if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
)
GEMMA_JINJA = (
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' "
    "+ m.content + '<end_of_turn>\n' }}{% endfor %}{{ '<start_of_turn>model\n' }}"
)


def talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


CONVERSATIONS = (talk("hello"), talk("a", "b", "c"), talk("one\n", "  two", "三 {round}", "4", "5"))
WITH_SYSTEM = (talk("hello", system="Be brief."), talk("a", "b", "c", system="多行\nsystem"))


def render_jinja(source: str, messages) -> str:
    import tokenizers
    import transformers

    empty = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0}, unk_token="<s>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=empty, bos_token="<s>")
    return tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, add_generation_prompt=True)


@pytest.fixture
def folder(tmp_path):
    """A model folder with the given config.json and, for Llamas, a vocabulary with the given tokens."""

    def make(config: dict, tokens: tuple[str, ...] = (), settings: dict | None = None):
        import tokenizers

        vocab = {token: i for i, token in enumerate(("<unk>", "<s>", "</s>", *tokens))}
        tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>")).save(
            str(tmp_path / "tokenizer.json")
        )
        (tmp_path / "config.json").write_text(json.dumps(config))
        if settings is not None:
            (tmp_path / "lmcourse.json").write_text(json.dumps(settings))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("name", "source", "conversations"),
    [
        ("internlm2", CHATML_JINJA, CONVERSATIONS + WITH_SYSTEM),
        ("chatml", CHATML_JINJA, CONVERSATIONS + WITH_SYSTEM),
        ("yi", CHATML_JINJA, CONVERSATIONS + WITH_SYSTEM),
        ("qwen", QWEN_JINJA, CONVERSATIONS + WITH_SYSTEM),
        ("llama2", LLAMA2_JINJA, CONVERSATIONS + WITH_SYSTEM),
        ("gemma", GEMMA_JINJA, CONVERSATIONS),
    ],
)
def test_render_equals_transformers_with_an_independent_template(name, source, conversations):
    for messages in conversations:
        assert TEMPLATES[name].render(messages) == render_jinja(source, messages)


def test_render_tiny_chat_equals_the_template_it_ships_with():
    folder = model_path("tiny-chat")
    source = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    tools = [{"role": "system", "name": "plugin", "content": '[{"name": "add"}]'}, *talk("a", "b")]
    answer = {"role": "environment", "name": "plugin", "content": "42"}
    for messages in (*CONVERSATIONS, *WITH_SYSTEM, [*tools, answer], [{"role": "user", "name": "Bob", "content": "x"}]):
        rendered = find_template(None, folder).render(messages)
        assert "<s>" + rendered == render_jinja(source, messages)


@pytest.mark.parametrize(
    ("name", "system", "expected"),
    [
        ("internlm", "S", "<|System|>:S\n<|User|>:u\n<|Bot|>:a<eoa>\n<|User|>:v\n<|Bot|>:"),
        ("vicuna", "S", "S USER: u ASSISTANT: a</s>USER: v ASSISTANT:"),
        ("vicuna", None, "USER: u ASSISTANT: a</s>USER: v ASSISTANT:"),
        ("baichuan2", "S", "S<reserved_106>u<reserved_107>a<reserved_106>v<reserved_107>"),
        ("chatglm2", None, "[Round 1]\n\n问：u\n\n答：a\n\n[Round 2]\n\n问：v\n\n答："),
        ("mistral", None, "[INST] u [/INST] a</s>[INST] v [/INST]"),
        ("deepseek", "S", "S\n\nUser: u\n\nAssistant: a<｜end▁of▁sentence｜>User: v\n\nAssistant:"),
        ("codellama", None, "[INST] u [/INST] a </s><s>[INST] v [/INST]"),
        (
            "xcomposer",
            None,
            " <|User|>: u<TOKENS_UNUSED_0> <|Bot|>: a<TOKENS_UNUSED_1> <|User|>: v<TOKENS_UNUSED_0> <|Bot|>: ",
        ),
        (
            "llama3",
            None,
            "<|start_header_id|>user<|end_header_id|>\n\nu<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na"
            "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nv<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("baichuan", None, "<reserved_102>u<reserved_103>a<reserved_102>v<reserved_103>"),
        ("deepseek-vl", "S", "S\n\nUser: u\n\nAssistant: a<｜end▁of▁sentence｜>User: v\n\nAssistant:"),
        (
            "deepseek-coder",
            "S",
            "S\n### Instruction:\nu\n### Response:\na\n<|EOT|>\n### Instruction:\nv\n### Response:\n",
        ),
        (
            "xcomposer2",
            "S",
            "[UNUSED_TOKEN_146]system\nS[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]user\nu[UNUSED_TOKEN_145]\n"
            "[UNUSED_TOKEN_146]assistant\na[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]user\nv[UNUSED_TOKEN_145]\n"
            "[UNUSED_TOKEN_146]assistant\n",
        ),
        ("base", None, "uav"),
    ],
)  # fmt: skip
def test_render_writes_the_familys_strings(name, system, expected):
    assert TEMPLATES[name].render(talk("u", "a", "v", system=system)) == expected


def test_every_row_is_reachable_and_renders_a_plain_text():
    assert template_names() == tuple(sorted(TEMPLATES))
    for name, template in TEMPLATES.items():
        assert template.name == name
        assert "hello" in template.render("hello")


@pytest.mark.parametrize(
    ("config", "tokens", "expected"),
    [
        ({"architectures": ["InternLM2ForCausalLM"]}, (), "internlm2"),
        ({"model_type": "internlm2"}, (), "internlm2"),
        ({"architectures": ["LlamaForCausalLM"]}, (), "llama2"),
        ({"architectures": ["LlamaForCausalLM"]}, ("<|im_start|>", "<|im_end|>"), "yi"),
        ({"architectures": ["LlamaForCausalLM"]}, ("▁<PRE>", "▁<SUF>", "▁<MID>"), "codellama"),
        ({"architectures": ["LlamaForCausalLM"]}, ("<|start_header_id|>", "<|eot_id|>"), "llama3"),
        ({"architectures": ["LlamaForCausalLM"]}, ("<｜end▁of▁sentence｜>",), "deepseek"),
        ({"architectures": ["Qwen2ForCausalLM"]}, (), "qwen"),
        ({"architectures": ["BaichuanForCausalLM"], "vocab_size": 125696}, (), "baichuan2"),
        ({"architectures": ["BaichuanForCausalLM"], "vocab_size": 64000}, (), "baichuan"),
        ({"model_type": "mixtral"}, (), "mistral"),
        ({"architectures": ["MultiModalityCausalLM"]}, (), "deepseek-vl"),
        ({"architectures": ["InternLMXComposer2ForCausalLM"]}, (), "xcomposer2"),
    ],
)
def test_find_template_reads_config_and_vocabulary(folder, config, tokens, expected):
    assert find_template(None, folder(config, tokens)).name == expected


def test_find_template_knows_every_family_of_the_table(folder):
    from lmcourse.models import FAMILIES

    for architecture in {name for family in FAMILIES for name in family.architectures}:
        assert find_template(None, folder({"architectures": [architecture], "vocab_size": 9})).name in TEMPLATES


def test_find_template_explicit_name_wins_over_everything(folder):
    path = folder({"architectures": ["LlamaForCausalLM"]}, ("<|im_start|>", "<|im_end|>"), {"chat_template": "gemma"})
    assert find_template(None, path).name == "gemma"
    assert find_template("vicuna", path).name == "vicuna"
    assert find_template(ChatTemplateConfig("internlm2-chat-1_8b"), path).name == "internlm2"


def test_find_template_unknown_names_list_and_suggest(folder):
    path = folder({"architectures": ["NoSuchForCausalLM"], "model_type": "nosuch"})
    with pytest.raises(ConfigError, match="internlm2") as caught:
        find_template(None, path)
    assert "NoSuchForCausalLM" in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'internlm2'"):
        find_template("InternLM-2", path)


def test_meta_instruction_replaces_the_system_prompt(folder):
    path = folder({"architectures": ["Qwen2ForCausalLM"]}, settings={"meta_instruction": "From the folder."})
    assert "From the folder." in find_template(None, path).render("hi")
    template = find_template(ChatTemplateConfig(meta_instruction="Be brief."), path)
    assert template.render("hi").startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert "Be brief." not in template.render(talk("hi", system="Mine."))
    assert "system" not in find_template(ChatTemplateConfig(meta_instruction=""), path).render("hi")
    with pytest.raises(ConfigError, match="no system prompt"):
        find_template(ChatTemplateConfig("gemma", meta_instruction="x"), path)


def test_capability_completion_and_infilling(folder):
    path = folder({"architectures": ["Qwen2ForCausalLM"]}, settings={"meta_instruction": "From the folder."})
    assert find_template(ChatTemplateConfig(capability="completion"), path).render("Once upon") == "Once upon"
    template = find_template(ChatTemplateConfig("codellama", capability="infilling"), path)
    assert template.render("def f():\n<FILL>return x") == "<PRE> def f():\n <SUF>return x <MID>"
    with pytest.raises(PromptError, match="one <FILL>"):
        template.render("no gap")
    for config in (
        ChatTemplateConfig("internlm2", capability="infilling"),
        ChatTemplateConfig("internlm2", "x", "completion"),
    ):
        with pytest.raises(ConfigError):
            find_template(config, path)


@pytest.mark.parametrize("settings", [{"chat_tempalte": "yi"}, {"meta_instruction": 3}])
def test_settings_file_with_unknown_content_is_an_error(folder, settings):
    with pytest.raises(CheckpointError, match="does not exist or is not a text"):
        find_template(None, folder({"architectures": ["Qwen2ForCausalLM"]}, settings=settings))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("", "is empty"),
        ([], "is empty"),
        (None, "a text or a list"),
        (b"hello", "a text or a list"),
        ({"role": "user", "content": "x"}, "a text or a list"),
        ([3], "needs a role"),
        ([{"content": "x"}], "needs a role"),
        ([{"role": "user"}], "must be text"),
        ([{"role": "user", "content": 3}], "must be text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "must be text"),
        ([{"role": "robot", "content": "x"}], "no place for a 'robot'"),
        (talk(system="alone"), "no message to answer"),
        (talk("a", "b", ""), "is empty"),
    ],
)
def test_render_refuses_what_is_no_conversation(messages, message):
    with pytest.raises(PromptError, match=message):
        TEMPLATES["internlm2"].render(messages)


def test_render_takes_openai_text_parts():
    messages = [{"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}]
    assert TEMPLATES["internlm2"].render(messages) == TEMPLATES["internlm2"].render("a b")


@pytest.mark.parametrize("name", ["llama2", "mistral", "gemma", "chatglm2"])
@pytest.mark.parametrize("roles", ["uu", "ua", "au", "uaa", "a"])
def test_render_templates_of_turns_refuse_other_orders(name, roles):
    long = {"u": "user", "a": "assistant"}
    with pytest.raises(PromptError, match="in turn, the user last"):
        TEMPLATES[name].render([{"role": long[role], "content": "x"} for role in roles])
