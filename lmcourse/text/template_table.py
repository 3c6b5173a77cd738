"""The chat templates, one row each, and which one a model's config asks for.

The strings are LMDeploy 0.3.0's (`lmdeploy/model.py`), except where the families' own documentation ends the prompt
differently: after "[/INST]" and "ASSISTANT:", without a space, which would be a token that training never saw there.

System prompts: a row has a default only where the family was trained with a short one (qwen, deepseek-vl). LMDeploy
adds longer ones for internlm, internlm2, llama2, vicuna and dbrx; here they have none, and meta_instruction sets one.
ChatGLM2's [gMASK] and sop come from its tokenizer, as BOS does for the others.

Lesson: 2 (what a chat model sees)
"""

from __future__ import annotations

from dataclasses import replace

from lmcourse.text.template import ChatTemplate, Turn
from lmcourse.text.tool_format import INTERNLM2_TOOLS

__all__ = [
    "ALIASES",
    "BY_ARCHITECTURE",
    "BY_INNER_TYPE",
    "BY_KEY",
    "BY_MODEL_TYPE",
    "BY_VOCABULARY",
    "MARKED_LLAMAS",
    "TEMPLATES",
]

_CHATML = ChatTemplate(
    "chatml",
    system=Turn("<|im_start|>system\n", "<|im_end|>\n"),
    user=Turn("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=Turn("<|im_start|>assistant\n", "<|im_end|>\n"),
    cue="<|im_start|>assistant\n",
    stop_words=("<|im_end|>",),
)

_LLAMA2 = ChatTemplate(
    "llama2",
    begin="[INST] ",
    system=Turn("<<SYS>>\n", "\n<</SYS>>\n\n"),
    user=Turn("", " [/INST]"),
    assistant=Turn(" ", " </s><s>[INST] "),
    stop_words=("</s>",),
    alternates=True,
)

_BAICHUAN = ChatTemplate(
    "baichuan",
    system=Turn(),
    user=Turn("<reserved_102>"),
    assistant=Turn("<reserved_103>"),
    cue="<reserved_103>",
    stop_words=("</s>",),
)

_DEEPSEEK = ChatTemplate(
    "deepseek",
    system=Turn("", "\n\n"),
    user=Turn("User: ", "\n\n"),
    assistant=Turn("Assistant: ", "<｜end▁of▁sentence｜>"),
    cue="Assistant:",
    stop_words=("<｜end▁of▁sentence｜>",),
)

_ROWS = (
    replace(
        _CHATML,
        name="internlm2",
        stop_words=("<|im_end|>", "<|action_end|>"),
        extra=(("environment", Turn("<|im_start|>environment\n", "<|im_end|>\n")),),  # what a tool answered
        names=("plugin", "interpreter"),
        tools=INTERNLM2_TOOLS,
    ),
    ChatTemplate(
        "internlm",
        system=Turn("<|System|>:", "\n"),
        user=Turn("<|User|>:", "\n"),
        assistant=Turn("<|Bot|>:", "<eoa>\n"),
        cue="<|Bot|>:",
        stop_words=("<eoa>",),
    ),
    ChatTemplate(
        "xcomposer",
        system=Turn("", "\n"),
        user=Turn(" <|User|>: ", "<TOKENS_UNUSED_0>"),
        assistant=Turn(" <|Bot|>: ", "<TOKENS_UNUSED_1>"),
        cue=" <|Bot|>: ",
        stop_words=("<TOKENS_UNUSED_0>", "<TOKENS_UNUSED_1>"),
        picture="{mark}",
    ),
    ChatTemplate(  # InternLM2's marks under the names that its vocabulary has for them
        "xcomposer2",
        system=Turn("[UNUSED_TOKEN_146]system\n", "[UNUSED_TOKEN_145]\n"),
        user=Turn("[UNUSED_TOKEN_146]user\n", "[UNUSED_TOKEN_145]\n"),
        assistant=Turn("[UNUSED_TOKEN_146]assistant\n", "[UNUSED_TOKEN_145]\n"),
        cue="[UNUSED_TOKEN_146]assistant\n",
        stop_words=("[UNUSED_TOKEN_145]",),
        picture="{mark}",
    ),
    _LLAMA2,
    replace(_LLAMA2, name="codellama", infilling=("<PRE> ", " <SUF>", " <MID>"), stop_words=("</s>", "<EOT>")),
    ChatTemplate(
        "llama3",
        system=Turn("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user=Turn("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=Turn("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        cue="<|start_header_id|>assistant<|end_header_id|>\n\n",
        stop_words=("<|eot_id|>",),
    ),
    ChatTemplate(
        "vicuna",
        system=Turn("", " "),
        user=Turn("USER: ", " "),
        assistant=Turn("ASSISTANT: ", "</s>"),
        cue="ASSISTANT:",
        stop_words=("</s>",),
    ),
    ChatTemplate(  # of fine-tuned Llamas and Mistrals, TinyLlama among them
        "zephyr",
        system=Turn("<|system|>\n", "</s>\n"),
        user=Turn("<|user|>\n", "</s>\n"),
        assistant=Turn("<|assistant|>\n", "</s>\n"),
        cue="<|assistant|>\n",
        stop_words=("</s>",),
        adds_bos=False,
    ),
    _CHATML,
    replace(_CHATML, name="qwen", default_system="You are a helpful assistant."),
    replace(
        _CHATML,
        name="qwen-vl",
        default_system="You are a helpful assistant.",
        picture="Picture {ordinal}: <img>{mark}</img>\n",
    ),
    replace(_CHATML, name="yi", stop_words=("<|im_end|>", "<|endoftext|>")),
    replace(_CHATML, name="dbrx"),
    _BAICHUAN,
    replace(
        _BAICHUAN,
        name="baichuan2",
        user=Turn("<reserved_106>"),
        assistant=Turn("<reserved_107>"),
        cue="<reserved_107>",
    ),
    ChatTemplate(
        "chatglm2",
        user=Turn("[Round {round}]\n\n问：", "\n\n"),
        assistant=Turn("答：", "\n\n"),
        cue="答：",
        alternates=True,
    ),
    ChatTemplate(
        "mistral",
        user=Turn("[INST] ", " [/INST]"),
        assistant=Turn(" ", "</s>"),
        stop_words=("</s>",),
        alternates=True,
    ),
    ChatTemplate(
        "gemma",
        user=Turn("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=Turn("<start_of_turn>model\n", "<end_of_turn>\n"),
        cue="<start_of_turn>model\n",
        stop_words=("<end_of_turn>",),
        alternates=True,
    ),
    _DEEPSEEK,
    replace(
        _DEEPSEEK,
        name="deepseek-vl",
        default_system="You are a helpful language and vision assistant. You are able to understand the visual content "
        "that the user provides, and assist the user with a variety of tasks using natural language.",
        picture="{mark}",
        pictures="{mark} is Figure {number}.\n",
    ),
    ChatTemplate(
        "deepseek-coder",
        system=Turn("", "\n"),
        user=Turn("### Instruction:\n", "\n"),
        assistant=Turn("### Response:\n", "\n<|EOT|>\n"),
        cue="### Response:\n",
        stop_words=("<|EOT|>",),
    ),
    ChatTemplate("base", capability="completion"),
)

TEMPLATES = {row.name: row for row in _ROWS}

# further names under which LMDeploy 0.3.0 registers the same strings
ALIASES = {
    "internlm2-chat": "internlm2",
    "internlm2-chat-1_8b": "internlm2",
    "internlm2-chat-7b": "internlm2",
    "internlm2-chat-20b": "internlm2",
    "internlm-chat": "internlm",
    "internlm-chat-7b": "internlm",
    "internlm-chat-20b": "internlm",
    "internlm-xcomposer": "xcomposer",
    "internlm-xcomposer-7b": "xcomposer",
    "internlm-xcomposer2": "xcomposer2",
    "llama-2": "llama2",
    "llama-2-chat": "llama2",
    "qwen-chat": "qwen",
    "qwen-7b": "qwen",
    "qwen-14b": "qwen",
    "qwen-vl-chat": "qwen-vl",
    "qwen-vl-7b": "qwen-vl",
    "yi-chat": "yi",
    "yi-34b": "yi",
    "baichuan2-chat": "baichuan2",
    "baichuan2-7b": "baichuan2",
    "chatglm2-6b": "chatglm2",
    "mistral-instruct": "mistral",
    "mixtral-instruct": "mistral",
    "mixtral": "mistral",
    "deepseek-chat": "deepseek",
    "deepseek-vl-chat": "deepseek-vl",
    "llama": "base",
    "falcon": "base",
}

# config key architectures → template. A base model and its chat model name the same architecture, so the chat form is
# taken; capability="completion" or the name "base" leaves text as it is.
BY_ARCHITECTURE = {
    "InternLM2ForCausalLM": "internlm2",
    "InternLMForCausalLM": "internlm",
    "InternLMXComposerForCausalLM": "xcomposer",
    "InternLMXComposer2ForCausalLM": "xcomposer2",
    "LlamaForCausalLM": "llama2",
    "LlavaLlamaForCausalLM": "vicuna",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen",
    "LlavaForConditionalGeneration": "vicuna",
    "LlavaNextForConditionalGeneration": "vicuna",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen",
    "Qwen2MoeForCausalLM": "qwen",
    "QWenLMHeadModel": "qwen",
    "BaiChuanForCausalLM": "base",
    "BaichuanForCausalLM": "baichuan2",
    "ChatGLMModel": "chatglm2",
    "ChatGLMForConditionalGeneration": "chatglm2",
    "GemmaForCausalLM": "gemma",
    "DeepseekForCausalLM": "deepseek",
    "MultiModalityCausalLM": "deepseek-vl",
    "DeepseekVLForConditionalGeneration": "deepseek-vl",
    "DeepseekVLHybridForConditionalGeneration": "deepseek-vl",
    "DbrxForCausalLM": "dbrx",
    "FalconForCausalLM": "base",
    "RWForCausalLM": "base",
}

# Baichuan's generations share a class and number their reserved pieces differently: (template, vocab_size) → template
BY_VOCABULARY: dict[tuple[str, object], str] = {("baichuan2", 64000): "baichuan"}

# config keys that make another of a template: (template, key) → template
BY_KEY = {("qwen", "visual"): "qwen-vl"}

# language models inside LLaVA, by the model_type in text_config, where they are no Vicuna
BY_INNER_TYPE = {"mistral": "mistral", "qwen2": "qwen", "internlm2": "internlm2"}

# for configs without architectures
BY_MODEL_TYPE = {
    "internlm2": "internlm2",
    "internlm": "internlm",
    "llama": "llama2",
    "mistral": "mistral",
    "mixtral": "mistral",
    "qwen": "qwen",
    "qwen2": "qwen",
    "qwen2_moe": "qwen",
    "baichuan": "baichuan2",
    "chatglm": "chatglm2",
    "gemma": "gemma",
    "deepseek": "deepseek",
    "dbrx": "dbrx",
    "falcon": "base",
}

# Many families publish themselves as Llama. Their vocabularies tell them apart: the first row whose tokens all exist.
# Vicuna's vocabulary is Llama's own, so vicuna has to be named.
MARKED_LLAMAS = (
    (("<|start_header_id|>", "<|eot_id|>"), "llama3"),
    (("<|im_start|>", "<|im_end|>"), "yi"),
    (("<｜end▁of▁sentence｜>",), "deepseek"),
    (("▁<PRE>", "▁<SUF>", "▁<MID>"), "codellama"),
)
