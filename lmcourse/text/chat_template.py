"""find_template: which chat template a model's prompts are wrapped in.

    1  the name that a config or flag gives          model_name="vicuna"
    2  the model folder's lmcourse.json              {"chat_template": "...", "meta_instruction": "..."}, both optional
    3  config.json                                   architectures, or else model_type
    4  where families share a name, as many call themselves Llama: the vocabulary's size, or tokens that only one has
    5  the marks in the template that the model brings along, where 3 and 4 do not have them (shipped_template.py)

The folder's own name says nothing, and templates that ship with a checkpoint are programs (jinja), which are not run.

Lesson: 2 (what a chat model sees)
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcourse.config import ChatTemplateConfig
from lmcourse.errors import CheckpointError, ConfigError
from lmcourse.text.files import read_json_object
from lmcourse.text.shipped_template import match_shipped
from lmcourse.text.template import ChatTemplate, Message, Turn, check_messages
from lmcourse.text.template_table import (
    ALIASES,
    BY_ARCHITECTURE,
    BY_INNER_TYPE,
    BY_KEY,
    BY_MODEL_TYPE,
    BY_VOCABULARY,
    MARKED_LLAMAS,
    TEMPLATES,
)

if TYPE_CHECKING:
    from lmcourse.text.tokenizer import Tokenizer

__all__ = ["TEMPLATES", "ChatTemplate", "Message", "Turn", "check_messages", "find_template", "template_names"]

_SETTINGS_FILE = "lmcourse.json"


def template_names() -> tuple[str, ...]:
    """Names that model_name may take, sorted."""
    return tuple(sorted(TEMPLATES))


def find_template(
    config: ChatTemplateConfig | str | None, folder: Path, *, tokenizer: Tokenizer | None = None
) -> ChatTemplate:
    """The template for a model folder; the tokenizer is only asked about Llamas, and loaded if it is not given.

    Raises ConfigError for an unknown name and for settings that the template cannot have.
    """
    config = ChatTemplateConfig(model_name=config) if isinstance(config, str) or config is None else config
    settings = _read_settings(folder)
    name = config.model_name or settings.get("chat_template") or _name_from_config(folder, tokenizer)
    template = TEMPLATES.get(ALIASES.get(name, name))
    if template is None:
        raise _unknown(name)
    capability = template.capability if config.capability == "chat" else config.capability
    meta = config.meta_instruction
    if meta is None and capability == "chat":
        meta = settings.get("meta_instruction")
    return template.adapted(meta, capability)


def _read_settings(folder: Path) -> dict[str, Any]:
    settings = read_json_object(folder / _SETTINGS_FILE, optional=True)
    for key, value in settings.items():
        if key not in ("chat_template", "meta_instruction") or not isinstance(value, str):
            raise CheckpointError(
                f"{_SETTINGS_FILE} has a setting that does not exist or is not a text",
                expected='{"chat_template": "...", "meta_instruction": "..."}, both optional',
                got=f"{key!r}: {value!r}",
                where=folder / _SETTINGS_FILE,
                next_step="correct or remove it",
            )
    return settings


def _name_from_config(folder: Path, tokenizer: Tokenizer | None) -> str:
    config = read_json_object(folder / "config.json")
    named = config.get("architectures") or []
    names = [BY_ARCHITECTURE.get(str(one), "") for one in ([named] if isinstance(named, str) else named)]
    name = next(filter(None, names), BY_MODEL_TYPE.get(str(config.get("model_type")), ""))
    inner = config.get("text_config")
    if isinstance(inner, dict):
        name = BY_INNER_TYPE.get(str(inner.get("model_type")), name)
    if not name:
        raise ConfigError(
            "no chat template is known for this model",
            expected="a name: " + ", ".join(template_names()),
            got=f"architectures {named!r}, model_type {config.get('model_type')!r}",
            where=folder / "config.json",
            next_step='name one: ChatTemplateConfig(model_name="...") or --model-name; "base" leaves text as it is',
        )
    name = next((other for (plain, key), other in BY_KEY.items() if plain == name and key in config), name)
    name = BY_VOCABULARY.get((name, config.get("vocab_size")), name)
    name = _tell_llamas_apart(folder, tokenizer) if name == "llama2" else name
    return match_shipped(name, folder)


def _tell_llamas_apart(folder: Path, tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        from lmcourse.text.tokenizer import Tokenizer as Loader

        tokenizer = Loader.from_folder(folder)
    for tokens, name in MARKED_LLAMAS:
        if all(tokenizer.token_id(token) is not None for token in tokens):
            return name
    return "llama2"


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name.lower(), template_names(), n=1)
    return ConfigError(
        f"no chat template is called {name!r}",
        expected=", ".join(template_names()),
        got=name,
        where="model_name",
        next_step=f"did you mean {near[0]!r}?" if near else "choose one of these, or leave it out",
    )
