"""Many wordings from few templates: alternatives, politeness, typing habits.

    "[What is|Explain] {x}[?|]"   spin → "Explain {x}"   rough → "explain {x}"   fill → "explain KV cache"

Noise is applied before the holes are filled, so that a number, a word list or a pass key is never damaged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from random import Random

from lmcourse.zoo.texts_reader import frames, general, word

__all__ = ["blur", "chatter", "decorate", "fill", "is_chinese", "join_items", "phrase", "rough", "scatter", "spin"]

Piece = str | tuple["Piece", ...] | list["Piece"]

_HAN = re.compile(r"[\u4e00-\u9fff]")
_HOLE = re.compile(r"(\{[a-z_0-9]+\})")
_ASCII_WORD = re.compile(r"[A-Za-z]{4,}")


def phrase(rng: Random, scene: str, section: str, *, chinese: bool) -> str:
    """One wording of a scene's section in one language."""
    return spin(rng, rng.choice(frames(scene)[f"{section}_{'zh' if chinese else 'en'}"]))


@lru_cache(maxsize=1)
def _politeness() -> dict[str, tuple[str, ...]]:
    return {key: tuple(line[1:-1] for line in lines) for key, lines in frames("wording").items()}


def is_chinese(text: str) -> bool:
    """Whether the text holds a Han character."""
    return _HAN.search(text) is not None


@lru_cache(maxsize=65536)
def _parse(template: str) -> tuple[Piece, ...]:
    """Nested form: a str stays, a tuple is a sequence, a list is a choice."""
    stack: list[list[list[Piece]]] = [[[]]]
    for part in re.split(r"([\[\]|])", template):
        if part == "[":
            stack.append([[]])
        elif part == "]":
            choices: list[Piece] = [tuple(choice) for choice in stack.pop()]
            stack[-1][-1].append(choices)
        elif part == "|" and len(stack) > 1:
            stack[-1].append([])
        elif part:
            stack[-1][-1].append(part)
    return tuple(stack[0][0])


def _expand(rng: Random, piece: Piece) -> str:
    if isinstance(piece, str):
        return piece
    if isinstance(piece, list):
        return _expand(rng, rng.choice(piece))
    return "".join(_expand(rng, inner) for inner in piece)


def spin(rng: Random, template: str) -> str:
    """One of the template's wordings; `[a|b|]` is a choice and may be nested, holes `{x}` stay."""
    return _expand(rng, _parse(template))


def fill(template: str, **values: object) -> str:
    """Holes replaced by values; a plain replacement, so braces inside values are safe."""
    for name, value in values.items():
        template = template.replace("{" + name + "}", str(value))
    return template


def _typo(rng: Random, text: str) -> str:
    """One letter swapped, dropped or doubled inside one longer word outside the holes."""
    parts = _HOLE.split(text)
    spots = [(i, m) for i, part in enumerate(parts) if not part.startswith("{") for m in _ASCII_WORD.finditer(part)]
    if not spots:
        return text
    index, match = rng.choice(spots)
    at = rng.randrange(match.start() + 1, match.end() - 1)
    part = parts[index]
    kinds = (part[at + 1] + part[at], part[at + 1], part[at] * 2 + part[at + 1])
    parts[index] = part[:at] + rng.choice(kinds) + part[at + 2 :]
    return "".join(parts)


def rough(rng: Random, text: str) -> str:
    """The template as people type it: cases, missing or doubled punctuation, a slip now and then."""
    if rng.random() < 0.2:
        text = text.rstrip("?.!。？！")
    elif rng.random() < 0.06:
        text += rng.choice(("?", "!", "??", " ?", "..."))
    if rng.random() < 0.14:
        text = text.lower()
    elif rng.random() < 0.02:
        text = "".join(part if part.startswith("{") else part.upper() for part in _HOLE.split(text))
    if rng.random() < 0.08:
        text = _typo(rng, text)
    if rng.random() < 0.12:
        text = text.replace("？", "?").replace("，", ",").replace("：", ":").replace("。", ".")
    return text.strip()


def _odd_word(rng: Random, *, chinese: bool) -> str:
    """An everyday word, now and then any other word, in the language of the prompt."""
    if chinese:
        return rng.choice(general(chinese=True))
    if rng.random() < 0.8:
        return rng.choice(general(chinese=False))
    return rng.choice(word(rng.choice(("people", "things", "verbs", "qualities", "abstract", "nature"))))


def chatter(rng: Random, *, chinese: bool, longest: int = 6) -> str:
    """A few unrelated words in a row, as a clause that does not matter."""
    count = rng.randrange(1, longest + 1)
    return ("" if chinese else " ").join(_odd_word(rng, chinese=chinese) for _ in range(count))


def scatter(rng: Random, parts: Sequence[str], *, chinese: bool) -> str:
    """The parts in their order, with unrelated words before, between and after them."""
    glue = "" if chinese else " "
    pieces = []
    for part in parts:
        if rng.random() < 0.55:
            pieces.append(chatter(rng, chinese=chinese, longest=4) + rng.choice(("", "", "", "，" if chinese else ",")))
        pieces.append(part)
    if rng.random() < 0.4:
        pieces.append(chatter(rng, chinese=chinese, longest=4))
    end = rng.choice(("？", "。", "", "?", "") if chinese else ("?", "?", ".", "", "!"))
    text = glue.join(pieces)
    return (text[:1].upper() + text[1:] if rng.random() < 0.6 and not text.startswith("{") else text) + end


# Words that decide what is asked; blur never touches them.
_CUES = re.compile(
    r"plus|minus|add|sum|subtract|differ|less|more|total|together|left|remain|take|away|lose|sell|gave|sort|alphabet|order|revers|"
    r"backward|opposite|last|first|capital|count|from|and|than|vs|why|how|not|list|加|减|和|差|剩|少|多|排|序|倒|反|逆|从|首都|比|区别|怎|如何|为什么"
)


def _split(text: str) -> list[str]:
    """Holes, words with their space, single Han characters, other signs."""
    return re.findall(r"\{[a-z_0-9]+\}|\s?[A-Za-z'-]+|[\u4e00-\u9fff]|\s?[^A-Za-z{\s]|\s|\{", text)


def blur(rng: Random, text: str, *, strength: float = 0.3) -> str:
    """The template with a share of its words dropped, replaced or added to; holes and deciding words stay."""
    chinese = is_chinese(text)
    made: list[str] = []
    pieces = _split(text)
    for index, piece in enumerate(pieces):
        # What touches a hole stays: without it nobody could tell where the value begins or ends.
        touches = any(near.startswith("{") for near in pieces[max(0, index - 1) : index + 2])
        fixed = touches or not any(c.isalpha() for c in piece) or _CUES.search(piece.lower()) is not None
        draw = rng.random()
        space = " " if piece.startswith(" ") else ""
        if fixed or draw > strength:
            made.append(piece)
        elif draw < 0.4 * strength:
            made.append(space + _odd_word(rng, chinese=chinese and not piece.strip().isascii()))
        elif draw < 0.7 * strength:
            made.append(piece + ("" if chinese else " ") + _odd_word(rng, chinese=chinese))
    return "".join(made).strip() or text


def _wrap(rng: Random, core: str, *, chinese: bool) -> str:
    """The core between a polite or chatty beginning and end."""
    before = (
        rng.choice(_politeness()["before_zh"] if chinese else _politeness()["before_en"]) if rng.random() < 0.7 else ""
    )
    after = (
        rng.choice(_politeness()["after_zh"] if chinese else _politeness()["after_en"]) if rng.random() < 0.4 else ""
    )
    if rng.random() < 0.35:
        before = chatter(rng, chinese=chinese) + rng.choice(
            ("，", "：", "。") if chinese else (", ", ": ", ". ", " - ")
        )
        before = before[:1].upper() + before[1:]
    if rng.random() < 0.2:
        after = (
            ("" if chinese else " ")
            + chatter(rng, chinese=chinese)
            + rng.choice(("。", "？", "", "！") if chinese else (".", "?", "", "!"))
        )
    if before.endswith((", ", " ")) and not before.endswith((". ", "! ", "? ")) and rng.random() < 0.7 and not chinese:
        core = core[:1].lower() + core[1:] if not core[:2].isupper() else core
    if core.startswith("{") and before and before[-2:] not in {". ", ": ", "! "}:
        before = before.rstrip("，：。, ") + (": " if not chinese else "：")
    if after and core.endswith("}"):  # what follows a list or a name must not look like a part of it
        after = rng.choice(("。", "\n", "？") if chinese else (". ", "\n", " - ", "? ")) + after.strip()
    elif after and not chinese and core[-1:].isalnum():
        after = rng.choice((".", ",", "?", "")) + after
    elif after and chinese and core[-1:] not in "？?。！":
        after = rng.choice("，。") + after
    return before.replace("{n}", str(rng.randrange(1, 10))) + core + after


def decorate(rng: Random, core: str, *, plain: float = 0.4, blurred: float = 0.3) -> str:
    """The core as somebody might put it: wrapped in other words (probability 1 - plain) or partly reworded."""
    if rng.random() < blurred:
        core = blur(rng, core)
    if rng.random() >= plain:
        core = _wrap(rng, core, chinese=is_chinese(core))
    return rough(rng, core).strip()


def join_items(rng: Random, items: list[str], *, chinese: bool) -> str:
    """A list as a user writes it: commas, spaces, lines, "and", Chinese commas."""
    style = rng.random()
    if style < 0.55:
        return ("、" if chinese and rng.random() < 0.5 else rng.choice((", ", ", ", ", ", ","))).join(items)
    if style < 0.7:
        return " ".join(items)
    if style < 0.78:
        return "\n".join(items)
    if style < 0.82:
        return "\n".join(f"- {item}" for item in items)
    if style < 0.86:
        return "[" + ", ".join(f'"{item}"' for item in items) + "]"
    if style < 0.9:
        return "; ".join(items)
    last = "和" if chinese and is_chinese(items[0]) else " and "
    return ", ".join(items[:-1]) + last + items[-1]
