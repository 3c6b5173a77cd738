"""Words and names that exist nowhere, or nearly: what is copied from a prompt must not be guessed from its kind."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from lmcourse.zoo.texts_reader import frames, general, read_text, word

__all__ = ["KINDS", "any_han", "any_value", "made_up_word", "person_zh"]

KINDS = ("animals", "food", "things", "nature", "people", "abstract", "verbs", "qualities")
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
        rng.choice(general(chinese=False)) if rng.random() < 0.4 else rng.choice(word(rng.choice(KINDS)))
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


_ACCENTS = str.maketrans("aeoun", "áéöüñ")
_EVERYTHING = ("course_engine.txt", "course_serving.txt", "capitals.txt", "cities.txt", "general.txt", "words.txt")


@lru_cache(maxsize=1)
def _han() -> tuple[str, ...]:
    """Every Han character of the corpus's texts."""
    return tuple(sorted({sign for name in _EVERYTHING for sign in read_text(name) if "\u4e00" <= sign <= "\u9fff"}))


def any_han(rng: Random, *, longest: int) -> str:
    """One to `longest` Han characters that make no sense together."""
    return "".join(rng.choice(_han()) for _ in range(rng.randrange(1, longest + 1)))


def person_zh(rng: Random) -> str:
    """A Chinese name: a usual one, or a surname and any one or two characters of names."""
    surname = rng.choice(word("cjk_surnames"))
    if rng.random() < 0.3:
        return surname + rng.choice(word("cjk_given"))
    return surname + "".join(rng.choice(word("cjk_name_signs")) for _ in range(rng.choice((1, 2, 2))))


def any_value(rng: Random, *, chinese: bool) -> str:
    """Any value at all: words, made-up words, characters that no text of the corpus holds."""
    draw = rng.random()
    if chinese:
        if draw < 0.4:
            return rng.choice(general(chinese=True))
        # Characters that no text here holds are spelt in bytes, and bytes have to be copied, too.
        known = any_han(rng, longest=3)
        return known if draw < 0.88 else "".join(chr(rng.randrange(0x4E00, 0x9FA6)) for _ in known)
    if draw < 0.65:
        made_up = made_up_word(rng)
        return made_up if draw < 0.4 else made_up.translate(_ACCENTS if draw < 0.47 else {}).capitalize()
    return rng.choice(general(chinese=False) if draw < 0.75 else word(rng.choice((*KINDS, "more", "more"))))
