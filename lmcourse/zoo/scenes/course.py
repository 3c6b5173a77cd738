"""Questions and answers about the course: each topic's nouns and phrases go through many question frames.

A topic (one block of texts/course_*.txt) has nouns ("what is …"), how-to phrases, why clauses, pairs to compare and
whole questions, an answer, and the terms that a right answer must hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from lmcourse.zoo.dialogue import Dialogue, turn
from lmcourse.zoo.texts_reader import read_text
from lmcourse.zoo.wording import blur, decorate, fill, phrase, rough, scatter, spin

__all__ = ["Side", "Topic", "course", "course_essay", "topics"]


@dataclass(frozen=True)
class Side:
    """One language of a topic. `terms`: all must occur in a right answer, each a tuple of alternatives."""

    nouns: tuple[str, ...]
    tasks: tuple[str, ...]
    reasons: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    questions: tuple[str, ...]
    answer: str
    terms: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Topic:
    """A topic of the course in English and Chinese."""

    name: str
    english: Side
    chinese: Side


def _side(fields: dict[str, str], keys: str) -> Side:
    def items(key: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in fields.get(key, "").split("; ") if part.strip())

    noun, how, why, pair, question, answer, terms = tuple(keys)
    pairs = tuple((x.strip(), y.strip()) for x, y in (text.split(" / ") for text in items(pair)))
    alternatives = tuple(tuple(term.strip().split("|")) for term in fields[terms].split(", "))
    return Side(items(noun), items(how), items(why), pairs, items(question), fields[answer], alternatives)


def _topic(block: str, extra: dict[str, tuple[str, str]]) -> Topic:
    head, *lines = block.strip().splitlines()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(": ")
        fields[key] = value
    name = head.strip("[]")
    for key, question in zip("qQ", extra[name], strict=True):
        fields[key] = "; ".join(filter(None, (fields.get(key, ""), question.rstrip("?？"))))
    return Topic(name, _side(fields, "nhwdqat"), _side(fields, "NHWDQAT"))


@lru_cache(maxsize=1)
def topics() -> tuple[Topic, ...]:
    """Every topic, in the order of the files."""
    text = "\n\n".join(read_text(name) for name in ("course_engine.txt", "course_serving.txt"))
    more = [line.split(" | ") for line in read_text("course_questions.txt").splitlines() if not line.startswith("#")]
    extra = {name: (english, chinese) for name, english, chinese in more}
    blocks = [block for block in text.split("\n\n") if block.lstrip().startswith("[")]
    return tuple(_topic(block, extra) for block in blocks)


def _asked(rng: Random, side: Side, *, chinese: bool) -> str:
    """A question about one side: a frame around one of its phrases, or one of its whole questions."""
    kinds = [(side.nouns, "what"), (side.tasks, "how"), (side.reasons, "why")]
    present = [(phrases, section) for phrases, section in kinds if phrases]
    weights = [1.0] * len(present) + [0.7 * bool(side.pairs), 1.3 * bool(side.questions)]
    choice = rng.choices(range(len(weights)), weights=weights)[0]
    if choice < len(present):
        phrases, section = present[choice]
        noun = spin(rng, rng.choice(phrases))
        if rng.random() < 0.25:
            return fill(rough(rng, scatter(rng, ["{x}"], chinese=chinese)), x=noun)
        return fill(decorate(rng, phrase(rng, "course", section, chinese=chinese)), x=noun)
    if choice == len(present):
        x, y = rng.sample(rng.choice(side.pairs), 2)
        if rng.random() < 0.25:
            cue = (
                rng.choice(("区别", "不同", "差别", "比较"))
                if chinese
                else rng.choice(("difference", "compare", "differ", "versus", "apart", "or"))
            )
            parts = ["{x}", "{y}", cue] if rng.random() < 0.5 else [cue, "{x}", "{y}"]
            return fill(rough(rng, scatter(rng, parts, chinese=chinese)), x=x, y=y)
        return fill(decorate(rng, phrase(rng, "course", "diff", chinese=chinese)), x=x, y=y)
    question = spin(rng, rng.choice(side.questions)) + rng.choice(("？", "？", "?", "") if chinese else ("?", "?", ""))
    if rng.random() < 0.5:
        question = blur(rng, question, strength=rng.uniform(0.05, 0.3))
    return decorate(rng, question, blurred=0.0)


def course(rng: Random) -> Dialogue:
    """One question about the course and its answer."""
    topic = rng.choice(topics())
    chinese = rng.random() < 0.48
    side = topic.chinese if chinese else topic.english
    question = _asked(rng, side, chinese=chinese)
    return turn(question[:1].upper() + question[1:] if rng.random() < 0.5 else question, side.answer)


def course_essay(rng: Random) -> Dialogue:
    """A request for a long text, answered by the topic and the six that follow it, as paragraphs."""
    everything = topics()
    chinese = rng.random() < 0.45
    index = rng.randrange(len(everything))
    side = everything[index].chinese if chinese else everything[index].english
    if not side.nouns:
        return course(rng)
    ring = [everything[(index + step) % len(everything)] for step in range(7)]
    paragraphs = [topic.chinese.answer if chinese else topic.english.answer for topic in ring]
    frame = phrase(rng, "course", "long", chinese=chinese)
    return turn(decorate(rng, fill(frame, x=rng.choice(side.nouns)), plain=0.8), "\n".join(paragraphs))
