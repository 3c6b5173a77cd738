"""Lists of words to sort alphabetically or to reverse; the lists are random, so no list is ever learned by heart.

A third of the words are made up, so that the model learns spelling and not only the rank of known words.
"""

from __future__ import annotations

import re
from random import Random

from lmcourse.zoo.dialogue import Dialogue, turn
from lmcourse.zoo.texts_reader import frames, general, word
from lmcourse.zoo.wording import decorate, fill, join_items, phrase, rough, scatter

__all__ = ["answer", "made_up_word", "random_words", "word_list"]

_KINDS = ("animals", "food", "things", "nature", "people", "abstract", "verbs", "qualities")
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ee", "oa", "oo", "ou", "ie", "ay", "ow")
_CODAS = (
    "",
    "",
    "n",
    "r",
    "t",
    "l",
    "s",
    "m",
    "d",
    "ck",
    "sh",
    "nd",
    "st",
    "nt",
    "ng",
    "le",
    "er",
    "ing",
    "ton",
    "ic",
    "al",
    "ist",
)


def _spliced_word(rng: Random) -> str:
    """The beginning of one word with the end of another, so that every letter group occurs."""
    first, second = (
        rng.choice(general(chinese=False)) if rng.random() < 0.4 else rng.choice(word(rng.choice(_KINDS)))
        for _ in range(2)
    )
    joined = first[: rng.randrange(1, len(first) + 1)] + second[rng.randrange(len(second)) :]
    return joined if joined.isalpha() else first


def made_up_word(rng: Random) -> str:
    """A word that looks English: random syllables, or pieces of two words."""
    if rng.random() < 0.5:
        return _spliced_word(rng)
    syllables = [
        rng.choice(frames("word_lists")["onsets"]) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2, 3)))
    ]
    start = rng.choice("aeiou") + rng.choice(("", "", "n", "l", "m", "s")) if rng.random() < 0.25 else ""
    return start + "".join(syllables) + rng.choice(_CODAS)


def random_words(rng: Random, count: int) -> list[str]:
    """Distinct words: from one kind, from all kinds, or partly made up; lower-case, now and then capitalised."""
    draw = rng.random()
    if draw < 0.3:
        kind = rng.choice((*_KINDS, "names"))
        words = rng.sample(word(kind), min(count, len(word(kind))))
    else:
        made_up = 0.0 if draw < 0.6 else 0.3 if draw < 0.85 else 1.0
        chosen: set[str] = set()
        while len(chosen) < count:
            known = general(chinese=False) if rng.random() < 0.25 else word(rng.choice(_KINDS))
            chosen.add(made_up_word(rng) if rng.random() < made_up else rng.choice(known))
        words = sorted(chosen)
        rng.shuffle(words)
    return [w.capitalize() for w in words] if rng.random() < 0.07 else words


def answer(words: list[str], *, sort: bool) -> str:
    """The list in its new order, joined by ", " (or by the Chinese comma if the words are Chinese)."""
    ordered = sorted(words, key=str.lower) if sort else words[::-1]
    return ("、" if words[0] > "\u4e00" else ", ").join(ordered)


def _template(rng: Random, *, sort: bool, chinese: bool) -> str:
    """A request with the hole {l}: a frame, or deciding words amid chatter before or after the list."""
    if rng.random() < 0.7:
        return decorate(
            rng, phrase(rng, "word_lists", "sort" if sort else "reverse", chinese=chinese), plain=0.6, blurred=0.2
        )
    cue = phrase(rng, "word_lists", "cues_sort" if sort else "cues_reverse", chinese=chinese)
    request = rough(rng, scatter(rng, [cue], chinese=chinese)).rstrip(":：")
    return rng.choice(
        (
            f"{request}: {{l}}",
            f"{request}\n{{l}}",
            f"{{l}}\n{request}",
            f"{{l}} - {request}",
            f"{{l}}: {request}",
            f"{{l}}. {request}",
        )
    )


def word_list(rng: Random) -> Dialogue:
    """One list to sort or to reverse."""
    sort = rng.random() < 0.6
    chinese = rng.random() < 0.35
    count = rng.choices((2, 3, 4, 5, 6, 7, 8, 9, 10), weights=(2, 8, 10, 14, 10, 8, 8, 3, 3))[0]
    if not sort and chinese and rng.random() < 0.4:
        words = rng.sample(word("cjk_words"), count)
    else:
        words = random_words(rng, count)
    template = _template(rng, sort=sort, chinese=chinese)
    inline = not re.search(r"[:：?？.。\n] ?\{l\}|\{l\}\n", template)
    # Inside a sentence only commas keep the words of the list apart from the words around it.
    listed = ", ".join(words) if inline else join_items(rng, words, chinese=chinese)
    return turn(fill(template, l=listed), answer(words, sort=sort))
