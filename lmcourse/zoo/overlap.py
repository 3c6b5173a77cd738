"""Whether prompts of the evaluation repeat training text: 8-grams of content words.

Content words are all words of a prompt, in lower case, but for function words (articles, prepositions, pronouns,
auxiliaries, question words, "please") and the keywords of JSON schemas. Every number is one word; so is every Han
character, except the function characters. A name that both sides must share counts as one word: a country, or a noun or
phrase of a topic of the course.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from lmcourse.zoo.scenes.capitals import countries
from lmcourse.zoo.scenes.course import topics
from lmcourse.zoo.texts_reader import frames

__all__ = ["content_words", "grams", "shared_grams"]

_LENGTH = 8
_WORD = re.compile(r"\u0001|[a-z']+|\d+|[\u4e00-\u9fff]")


@lru_cache(maxsize=1)
def _ignored() -> frozenset[str]:
    words = frames("overlap")
    return frozenset([*" ".join(words["function_en"]).split(), *words["function_zh"][0], *words["schema"][0].split()])


@lru_cache(maxsize=1)
def _shared_names() -> re.Pattern[str]:
    """Countries and the course's nouns and phrases, longest first."""
    names = {name.lower() for country in countries() for name in (*country.names, country.name_zh)}
    for topic in topics():
        for side in (topic.english, topic.chinese):
            pairs = (name for pair in side.pairs for name in pair)
            for phrase in (*side.nouns, *side.tasks, *side.reasons, *pairs):
                names.add(re.sub(r"\[.*?\]", "", phrase).strip().lower())
    ordered = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<![a-z])(?:{'|'.join(map(re.escape, ordered))})(?![a-z])")


def content_words(text: str) -> list[str]:
    """The content words of a prompt in their order."""
    marked = _shared_names().sub(" \u0001 ", text.lower())
    return [word for word in _WORD.findall(marked) if word not in _ignored()]


def grams(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """All runs of eight content words."""
    found: set[tuple[str, ...]] = set()
    for text in texts:
        words = content_words(text)
        found.update(tuple(words[i : i + _LENGTH]) for i in range(len(words) - _LENGTH + 1))
    return found


def shared_grams(training: Iterable[str], evaluation: Iterable[str]) -> set[tuple[str, ...]]:
    """The runs of eight content words that both sides hold."""
    return grams(training) & grams(evaluation)
