"""Wordings put together from parts: `<name>` stands for any line of a section of texts/frames_parts.txt.

    "<person> asked me {x}"   →   "my old sailor asked me {x}"      "<Person> …" begins with a capital letter

A name that no section has is a kind of word: <things>, <names>, <general>, <word> (made up), <zh>, <zh_name>. Parts may
hold parts, so a few hundred lines make more wordings than any training run can see twice.
"""

from __future__ import annotations

import re
from random import Random

from lmcourse.zoo.made_up import any_han, made_up_word, person_zh
from lmcourse.zoo.texts_reader import frames, general, word
from lmcourse.zoo.wording import spin

__all__ = ["around", "expand"]

_SPACES = re.compile("  +")
_TIGHT = re.compile(r"([A-Za-z,;])\{")
_PART = re.compile(r"<([A-Za-z_]+)>")


def _word(rng: Random, kind: str) -> str:
    if kind == "word":
        return made_up_word(rng)
    if kind == "zh_name":
        return person_zh(rng)
    if kind == "zh":
        return rng.choice(general(chinese=True)) if rng.random() < 0.75 else any_han(rng, longest=3)
    return rng.choice(general(chinese=False) if kind == "general" else word(kind))


def expand(rng: Random, text: str) -> str:
    """The text, spun, with every <part> put in; holes {x} stay, but {n} becomes a small number."""
    text = spin(rng, text)
    while found := _PART.search(text):
        name = found.group(1)
        lines = frames("parts").get(name.lower())
        made = spin(rng, rng.choice(lines)) if lines else _word(rng, name.lower())
        if lines and name[0].isupper():
            # A part inside a part takes the capital letter over.
            made = made[0] + made[1].upper() + made[2:] if made.startswith("<") else made[0].upper() + made[1:]
        text = text[: found.start()] + made + text[found.end() :]
    text = _TIGHT.sub(r"\1 {", _SPACES.sub(" ", text))
    return text.replace("{n}", str(rng.randrange(1, 30))) if "{n}" in text else text


def _end(rng: Random, section: str) -> str:
    line = rng.choice(frames("parts")[section])
    return expand(rng, line[:-1])


def around(rng: Random, core: str, *, chinese: bool, share: float = 0.5) -> str:
    """A statement with a clause before it, after it, or both (each with probability `share`)."""
    before = _end(rng, "start_zh" if chinese else "aside_start") if rng.random() < share else ""
    after = _end(rng, "end_zh" if chinese else "aside_end") if rng.random() < share else ""
    if before.endswith((", ", "that ", "and ")) or (before.endswith(" ") and before[-2:-1].isalnum()):
        core = core[0].lower() + core[1:] if core[:2] not in ("I ", "I'") else core
    return before + core + (after if not core.endswith(("。", ".", "!", "?", "？")) else after.lstrip(".,!。，"))
