"""Special tokens: the texts that a tokenizer must take as one token, and which ids they have.

A vocabulary is learned from text; the marks of a conversation are not. A checkpoint lists them beside the vocabulary,
in up to four files that overlap. InternLM2 puts its marks on reserved pieces: the vocabulary calls id 92543 an unused
piece, and tokenizer_config.json says that it is <|im_start|>.

    tokenizer_config.json   added_tokens_decoder {id: {content, special, ...}} · bos_token ... · add_bos_token · legacy
    special_tokens_map.json bos_token, eos_token, ..., additional_special_tokens
    added_tokens.json       {content: id}
    config.json             bos_token_id, eos_token_id (where no name is given)

Lesson: 2 (what a format holds)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcourse.errors import CheckpointError
from lmcourse.text.files import read_json_object

__all__ = ["AddedToken", "SpecialTokens", "read_special_tokens"]

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class AddedToken:
    """A text that always becomes one token, wherever it stands."""

    text: str
    token_id: int
    special: bool = True  # left out by skip_special_tokens
    strips_left: bool = False  # white space before it belongs to it
    strips_right: bool = False


@dataclass(frozen=True)
class SpecialTokens:
    """What a model folder says about tokens besides the vocabulary itself."""

    added: tuple[AddedToken, ...] = ()  # tokens whose id is given, sorted by id
    named: frozenset[str] = frozenset()  # texts that are special; their ids may be in the vocabulary only
    bos: str | None = None
    eos: str | None = None
    bos_id: int | None = None  # from config.json; used where no text is given
    eos_id: int | None = None
    add_bos: bool | None = None  # config key add_bos_token; None: not said
    tokenizer_class: str | None = None  # what transformers would read the vocabulary with
    legacy: bool = True  # transformers' slow Llama tokenizer: each stretch between special tokens starts as a new text


def read_special_tokens(folder: Path) -> SpecialTokens:
    """Gather the four files; CheckpointError where two of them disagree on an id."""
    config = read_json_object(folder / "config.json", optional=True)
    settings = read_json_object(folder / "tokenizer_config.json", optional=True)
    names = read_json_object(folder / "special_tokens_map.json", optional=True)
    roles = {role: _text(settings.get(role)) or _text(names.get(role)) for role in _ROLES}
    listed = {text for source in (settings, names) for text in _listed(source)}
    add_bos = settings.get("add_bos_token")
    return SpecialTokens(
        added=_added_tokens(folder, settings, listed | set(filter(None, roles.values()))),
        named=frozenset(filter(None, roles.values())) | listed,
        bos=roles["bos_token"],
        eos=roles["eos_token"],
        bos_id=_first_id(config.get("bos_token_id")),
        eos_id=_first_id(config.get("eos_token_id")),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        tokenizer_class=_text(settings.get("tokenizer_class")),
        legacy=settings.get("legacy") is not False,
    )


def _text(value: Any) -> str | None:
    """A token's text, which files write as "x" or as {"content": "x", ...}."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) and content else None


def _listed(source: dict[str, Any]) -> Iterator[str]:
    for key in _LISTS:
        value = source.get(key)
        values = value.values() if isinstance(value, dict) else value
        yield from filter(None, map(_text, values if not isinstance(values, str) and values else ()))


def _first_id(value: Any) -> int | None:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) and not isinstance(first, bool) else None


def _added_tokens(folder: Path, settings: dict[str, Any], named: set[str]) -> tuple[AddedToken, ...]:
    by_text: dict[str, AddedToken] = {}
    rows = settings.get("added_tokens_decoder") or {}
    for key, row in rows.items() if isinstance(rows, dict) else ():
        text = _text(row)
        if text is None or not str(key).isdigit():
            raise _malformed(folder / "tokenizer_config.json", "added_tokens_decoder", f"{key!r}: {row!r}")
        flags = row if isinstance(row, dict) else {}
        special = bool(flags.get("special")) or text in named
        sides = bool(flags.get("lstrip")), bool(flags.get("rstrip"))
        by_text[text] = AddedToken(text, int(key), special, *sides)
    for text, token_id in read_json_object(folder / "added_tokens.json", optional=True).items():
        if not isinstance(token_id, int) or token_id < 0:
            raise _malformed(folder / "added_tokens.json", "an entry", f"{text!r}: {token_id!r}")
        known = by_text.setdefault(text, AddedToken(text, token_id, text in named))
        if known.token_id != token_id:
            raise CheckpointError(
                f"two files give different ids to the token {text!r}",
                expected=f"{known.token_id}, as in tokenizer_config.json",
                got=f"{token_id}, in added_tokens.json",
                where=folder,
                next_step="copy both files again from where the model was published",
            )
    return tuple(sorted(by_text.values(), key=lambda token: token.token_id))


def _malformed(path: Path, what: str, got: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name}: {what} cannot be read",
        expected='a token id with its text, such as "92543": {"content": "<|im_start|>"}',
        got=got,
        where=path,
        next_step="copy the file again from where the model was published",
    )
