"""Whether the chat template that a model brings along is the one chosen for it, and which one it is if not.

    config.json    MistralForCausalLM                      ─→ mistral     [INST] … [/INST]
    its template   {{ '<|im_start|>' + role + '\\n' … }}     ─→ chatml      <|im_start|>user …

The idea: fine-tuned models keep the architecture of what they came from and write conversations their own way. Their
templates are programs (jinja), which are not run; the marks that they write stand in them as they are, and tell enough.

Lesson: 2 (what a chat model sees)
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from lmcourse.text.files import read_json_object, require_file
from lmcourse.text.template import ChatTemplate
from lmcourse.text.template_table import TEMPLATES

__all__ = ["match_shipped"]

_MARK = re.compile(r"<[^<>\n]+>|\[[A-Z0-9_]+\]")
_MOST_CHARACTERS = 2**20

# the first row whose marks are all in it
_BY_MARKS = (
    (("<|im_start|>",), "chatml"),
    (("<|start_header_id|>",), "llama3"),
    (("<start_of_turn>",), "gemma"),
    (("[INST]", "<<SYS>>"), "llama2"),
    (("[INST]",), "mistral"),
    (("### Instruction:", "### Response:"), "deepseek-coder"),
    (("<|system|>", "<|user|>", "<|assistant|>", "eos_token"), "zephyr"),
    (("USER:", "ASSISTANT:"), "vicuna"),
)


def match_shipped(name: str, folder: Path) -> str:
    """The name itself, or that of the template whose marks the folder's own has; a warning where none has them."""
    shipped = _read_shipped(folder)
    if not shipped or _fits(TEMPLATES[name], shipped):
        return name
    for marks, other in _BY_MARKS:
        if all(mark in shipped for mark in marks):
            return other
    warnings.warn(
        f"{folder.name} brings a chat template of its own, which is not run, and no known one has its marks: prompts "
        f"are written as {name} writes them, and answers may suffer. Name another (model_name, --model-name), or write "
        'prompts out yourself with model_name="base"',
        stacklevel=2,
    )
    return name


def _fits(template: ChatTemplate, shipped: str) -> bool:
    """Whether a mark of the template is in the text; one without marks fits everything."""
    written = template.begin + template.user.before + template.cue
    marks = _MARK.findall(written) or [word for word in (template.cue.strip(" :\n"),) if word]
    return not marks or any(mark in shipped for mark in marks)


def _read_shipped(folder: Path) -> str:
    """The template's text, "" if there is none; of several, all together."""
    own = folder / "chat_template.jinja"
    if own.exists():
        return require_file(own).read_text(encoding="utf-8", errors="replace")[:_MOST_CHARACTERS]
    for file in ("chat_template.json", "tokenizer_config.json"):
        stated = read_json_object(folder / file, optional=True).get("chat_template")
        texts = (
            [entry.get("template") for entry in stated if isinstance(entry, dict)]
            if isinstance(stated, list)
            else [stated]
        )
        if text := "\n".join(text for text in texts if isinstance(text, str)):
            return text[:_MOST_CHARACTERS]
    return ""
