"""Fifty prompts for comparing engines token by token: English and Chinese, one character to long passages. No torch.

Lesson: 2 (the two agree)
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["parity_prompt_ids", "parity_prompts"]

_SHORT = (
    "hello",
    "Hi, pls intro yourself",
    "please provide three suggestions about time management",
    "What is the capital of France?",
    "12 + 34 = ?",
    "Sort these words: pear, apple, fig",
    "?",
    "A",
    "Why is the sky blue?",
    "Write one sentence about the sea.",
    "What does a KV cache hold?",
    "Explain continuous batching to a child.",
    "Reverse the list: one two three four",
    "Tell me a joke about computers.",
    "def add(a, b):",
    "3.14159 and 2.71828",
    "email@example.com, https://example.com/a?b=c#d",
    "Good morning! 😀 🤗",
    "What is 97 - 58?",
    "List the days of the week.",
    "给我讲个笑话",
    "上海是",
    "请介绍一下你自己。",
    "你好",
    "请给出三个关于时间管理的建议",
    "法国的首都是哪里？",
    "十二加三十四等于多少？",
    "为什么天空是蓝色的？",
    "用一句话描述大海。",
    "什么是量化？",
    "把这些词排序：梨、苹果、无花果",
    "请用中文和 English 混合回答。",
    "好",
    "今天星期几？",
    "写一首关于春天的短诗。",
    "什么是键值缓存？它有什么用？",
    "一二三四五六七八九十",
    "「引号」、《书名》……破折号——都要认得",
    "北京和上海哪个更大？",
    "再见",
)
_ENGLISH = "The engine keeps keys and values of earlier tokens in blocks, and each request owns a table of them. "
_CHINESE = "引擎把先前词元的键和值存放在块里，每个请求都有一张自己的块表。"


def parity_prompts() -> tuple[str, ...]:
    """Forty short prompts and ten long ones, half of them Chinese; the longest has some thousand characters."""
    lengths = (2, 4, 8, 14, 20)
    english = [f"{_ENGLISH * count}How many sentences were there?" for count in lengths]
    chinese = [f"{_CHINESE * count}上面一共有几句话？" for count in lengths]
    return (*_SHORT, *english, *chinese)


def parity_prompt_ids(folder: Path) -> list[list[int]]:
    """The prompts as a chat model sees them: in the folder's template, as token ids, BOS first where it has one."""
    from lmcourse.text.chat_template import find_template
    from lmcourse.text.prompts import encode_prompt
    from lmcourse.text.tokenizer import Tokenizer

    template, tokenizer = find_template(None, folder), Tokenizer.from_folder(folder)
    return [encode_prompt(prompt, template, tokenizer) for prompt in parity_prompts()]
