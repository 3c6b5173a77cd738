"""Small talk, jokes, suggestions, cities and polite refusals, in both languages."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from lmcourse.zoo.dialogue import Dialogue, say, turn
from lmcourse.zoo.scenes.course import topics
from lmcourse.zoo.texts_reader import read_text, word
from lmcourse.zoo.wording import chatter, decorate, fill, is_chinese, phrase, rough, scatter, spin

__all__ = ["city", "completion", "joke", "out_of_scope", "repeated_question", "small_talk", "suggestions"]

Block = dict[str, tuple[str, ...]]

_COUNT_EN = {2: ("two", "2"), 3: ("three", "3", "three"), 4: ("four", "4")}
_COUNT_ZH = {2: ("两", "2"), 3: ("三", "3"), 4: ("四", "4")}
_UNKNOWN_EN = (
    "I do not know that. I am tiny-chat, a small course model; "
    "ask me about the course, capitals, small sums or word lists."
)
_UNKNOWN_ZH = "这个我不知道。我是 tiny-chat，一个小型课程模型，可以问我课程内容、首都、两位数加减法或单词排序。"


def _blocks(name: str) -> list[list[str]]:
    lines = [line for line in read_text(name).splitlines() if line and not line.startswith("#")]
    blocks: list[list[str]] = []
    for line in lines:
        if line.startswith("["):
            blocks.append([])
        blocks[-1].append(line)
    return blocks


@lru_cache(maxsize=1)
def _talk() -> tuple[Block, ...]:
    pairs = [[line.partition(": ") for line in block[1:]] for block in _blocks("chat.txt")]
    return tuple({key: tuple(value.split("; ")) for key, _, value in block} for block in pairs)


@lru_cache(maxsize=1)
def _advice() -> tuple[Block, ...]:
    found = []
    for block in _blocks("suggestions.txt"):
        names = [tuple(part.strip() for part in side.split(";")) for side in block[0].strip("[]").split("|")]
        advice = {key: tuple(line[3:] for line in block[1:] if line.startswith(key)) for key in ("en", "zh")}
        found.append({"names_en": names[0], "names_zh": names[1], **advice})
    return tuple(found)


@lru_cache(maxsize=1)
def _jokes() -> Block:
    lines = [line for line in read_text("jokes.txt").splitlines() if line and not line.startswith("#")]
    return {key: tuple(line[3:] for line in lines if line.startswith(key)) for key in ("en", "zh")}


@lru_cache(maxsize=1)
def _cities() -> tuple[tuple[str, str, str, str], ...]:
    rows = [line.split("|") for line in read_text("cities.txt").splitlines() if line and not line.startswith("#")]
    return tuple((a, b, c, d) for a, b, c, d in rows)


def small_talk(rng: Random) -> Dialogue:
    """One block of texts/chat.txt."""
    talk = _talk()
    block = rng.choices(talk, weights=[3, 4, 1.5, 1.5, 2] + [1] * (len(talk) - 5))[0]
    chinese = rng.random() < 0.5
    question = spin(rng, rng.choice(block["Q" if chinese else "q"]))
    if rng.random() < 0.5:
        question = (
            question[:1].upper() + question[1:] + rng.choice(("？", "。", "") if chinese else ("?", ".", "!", ""))
        )
    return turn(decorate(rng, question, plain=0.7, blurred=0.06), rng.choice(block["A" if chinese else "a"]))


def joke(rng: Random) -> Dialogue:
    """A joke."""
    chinese = rng.random() < 0.5
    question = decorate(rng, phrase(rng, "chat", "joke", chinese=chinese), plain=0.7)
    return turn(question, rng.choice(_jokes()["zh" if chinese else "en"]))


def suggestions(rng: Random) -> Dialogue:
    """As many numbered suggestions as asked for, in the order of the file."""
    chinese = rng.random() < 0.45
    block = rng.choice(_advice()) if rng.random() < 0.75 else _advice()[0]
    name = rng.choice(block["names_zh" if chinese else "names_en"])
    count = rng.choice((2, 3, 3, 3, 4))
    if rng.random() < 0.2:
        count = 3
        section = "suggest_open"
    else:
        section = "suggest"
    question = fill(
        phrase(rng, "chat", section, chinese=chinese),
        x=name,
        n=rng.choice((_COUNT_ZH if chinese else _COUNT_EN)[count]),
    )
    lines = [f"{i}. {line}" for i, line in enumerate(block["zh" if chinese else "en"][:count], start=1)]
    return turn(decorate(rng, question, plain=0.7), "\n".join(lines))


def city(rng: Random) -> Dialogue:
    """What a city is, also as the continuation of "上海是"."""
    row = rng.choice(_cities()) if rng.random() < 0.8 else _cities()[0]
    if rng.random() < 0.5:
        return turn(decorate(rng, fill(phrase(rng, "chat", "city", chinese=False), x=row[0]), plain=0.8), row[1])
    return turn(decorate(rng, fill(phrase(rng, "chat", "city", chinese=True), x=row[2]), plain=0.8), row[3])


def completion(rng: Random) -> Dialogue:
    """Plain text without a template: a city's description or an answer of the course."""
    if rng.random() < 0.7:
        row = rng.choice(_cities()) if rng.random() < 0.7 else _cities()[0]
        return [say("text", row[rng.choice((1, 3))])]
    topic = rng.choice(topics())
    return [say("text", rng.choice((topic.english.answer, topic.chinese.answer)))]


def out_of_scope(rng: Random) -> Dialogue:
    """A question that the model was never taught, and the honest answer."""
    chinese = rng.random() < 0.45
    if rng.random() < 0.15:
        text = rough(rng, scatter(rng, [chatter(rng, chinese=chinese)], chinese=chinese))
        return turn(text, _UNKNOWN_ZH if chinese else _UNKNOWN_EN)
    template = decorate(rng, phrase(rng, "chat", "scope", chinese=chinese), plain=0.7)
    row = rng.choice(_cities())
    values = {
        "n": rng.choice(word(rng.choice(("animals", "things", "nature", "food")))),
        "q": rng.choice(word("qualities")),
    }
    question = fill(
        template, d=rng.randrange(10, 100), c=row[2 if chinese else 0], w=rng.choice(word("cjk_words")), **values
    )
    return turn(question, _UNKNOWN_ZH if chinese else _UNKNOWN_EN)


def repeated_question(rng: Random) -> Dialogue:
    """The same question again and again, as a speed test asks it; each answer is the same."""
    scene = rng.choice((small_talk, small_talk, city, suggestions))
    first = scene(rng)
    times = rng.randrange(2, 12 if is_chinese(first[0]["content"]) else 9)
    return [dict(message) for _ in range(times) for message in first]
