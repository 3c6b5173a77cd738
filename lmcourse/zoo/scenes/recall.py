"""Dialogues whose last questions can only be answered from earlier turns.

    user: my name is Vera and I live in Oslo  →  other questions  →  user: where do I live?

Values come from large pools or are made up, so the model copies them and does not guess. A fact may change on the way;
the newest counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from lmcourse.zoo.dialogue import Dialogue, say
from lmcourse.zoo.made_up import KINDS, any_value, made_up_word, person_zh
from lmcourse.zoo.parts import around, expand
from lmcourse.zoo.scenes.capitals import countries
from lmcourse.zoo.texts_reader import blocks, frames, general, read_text, word
from lmcourse.zoo.wording import blur, chatter, decorate, fill, phrase, rough, scatter, spin

__all__ = ["Fact", "facts", "recall"]


@dataclass(frozen=True)
class Fact:
    """A kind of fact in one language: how users state it, ask for it, and how it is answered.

    `values` are usual values and `kinds` word kinds to draw from; facts with neither have a draw of their own.
    """

    kind: str
    chinese: bool
    tell: tuple[str, ...]
    ask: tuple[str, ...]
    reply: str
    note: str
    cues: tuple[str, ...]
    names: tuple[str, ...]
    values: tuple[str, ...]
    kinds: tuple[str, ...]


@lru_cache(maxsize=2)
def facts(*, chinese: bool) -> tuple[Fact, ...]:
    """All kinds of facts of one language, from texts/facts.txt."""
    found = []
    for name, fields in blocks(read_text("facts.txt")):
        kind, _, language = name.partition("_")
        if (language == "zh") == chinese and kind != "anything":
            lists = (tuple(fields[key][0].split("; ")) if key in fields else () for key in "qvk")
            tell, ask, cues = fields["t"], fields["a"], fields.get("c", ())
            found.append(Fact(kind, chinese, tell, ask, fields["r"][0], fields["n"][0], cues, *lists))
    return tuple(found)


def _name(rng: Random) -> str:
    return rng.choice(word("names")) if rng.random() < 0.7 else made_up_word(rng).capitalize()


def _name_zh(rng: Random) -> str:
    return person_zh(rng) if rng.random() < 0.85 else _name(rng)


def _number(rng: Random) -> str:
    return str(rng.randrange(1, 10 ** rng.choice((1, 2, 2, 3, 4))))


def _age(rng: Random) -> str:
    return str(rng.randrange(5, 99))


def _city(rng: Random) -> str:
    draw = rng.random()
    if draw < 0.5:
        return rng.choice(frames("recall")["cities_en"])
    return rng.choice(countries()).capital if draw < 0.75 else made_up_word(rng).capitalize()


def _code(rng: Random) -> str:
    if rng.random() < 0.3:
        return made_up_word(rng)
    return rng.choice(word(rng.choice(("things", "animals", "nature", "abstract", "food"))))


def _code_zh(rng: Random) -> str:
    return rng.choice(word("cjk_words"))


def _items(rng: Random) -> str:
    kinds = rng.choice((("food",), ("things",), ("food", "things"), ("food", "things", "more"), ("food", "more")))
    draw = rng.random()
    items: list[str] = []
    while len(items) < rng.choice((2, 3, 3, 4, 4, 5)):
        item = made_up_word(rng) if draw < 0.15 else rng.choice(word(rng.choice(kinds)))
        item = f"{rng.choice(word('qualities'))} {item}" if rng.random() < 0.08 else item
        items += [item] if item not in items else []
    return ", ".join(items[:-1]) + " and " + items[-1] if rng.random() < 0.2 else ", ".join(items)


def _items_zh(rng: Random) -> str:
    goods = word("cjk_words")[:10] if rng.random() < 0.3 else word("cjk_words")
    items = rng.sample((*goods, "面包", "牛奶", "鸡蛋", "豆腐", "茶叶", "咖啡", "米饭"), rng.randrange(2, 6))
    if rng.random() < 0.2:
        items[0] = rng.choice(general(chinese=True))
    return "、".join(dict.fromkeys(items))


_DRAWS: dict[tuple[str, bool], Callable[[Random], str]] = {
    ("name", False): _name,
    ("name", True): _name_zh,
    ("friend", False): _name,
    ("number", False): _number,
    ("number", True): _number,
    ("age", False): _age,
    ("age", True): _age,
    ("city", False): _city,
    ("code", False): _code,
    ("code", True): _code_zh,
    ("items", False): _items,
    ("items", True): _items_zh,
}


def _draw(rng: Random, fact: Fact) -> str:
    wild = fact.kind not in ("age", "number", "items") and rng.random() < 0.35
    if wild:
        return any_value(rng, chinese=fact.chinese)
    if fact.values:
        return rng.choice(fact.values)
    return rng.choice(word(rng.choice(fact.kinds))) if fact.kinds else _DRAWS[fact.kind, fact.chinese](rng)


def _worn(rng: Random, template: str, *, chinese: bool) -> str:
    """The statement with clauses around it, as people type it."""
    if rng.random() < 0.5:
        template = around(rng, template, chinese=chinese)
    return rough(rng, blur(rng, template, strength=0.12) if rng.random() < 0.2 else template)


def _anything(rng: Random, *, chinese: bool) -> tuple[Fact, str]:
    """A fact about any thing at all, so that it is looked up by its name: "my anchor is Belun" → "my anchor?"."""
    template = dict(blocks(read_text("facts.txt")))["anything_zh" if chinese else "anything_en"]
    thing = rng.choice(general(chinese=True) if chinese else word(rng.choice((*KINDS, "more"))))
    if not chinese and rng.random() < 0.25:
        thing = f"{rng.choice(word('qualities'))} {thing}"
    lines = {key: tuple(line.replace("{k}", thing) for line in template[key]) for key in "tarnq"}
    names = tuple(lines["q"][0].split("; "))
    fact = Fact(thing, chinese, lines["t"], lines["a"], lines["r"][0], lines["n"][0], (), names, (), ())
    draw = rng.random()
    if draw < 0.25:
        return fact, _number(rng)
    if draw < 0.4 and not chinese:
        return fact, " ".join(any_value(rng, chinese=False) for _ in range(rng.randrange(2, 4)))
    return fact, any_value(rng, chinese=chinese)


def _statement(rng: Random, chosen: list[tuple[Fact, str]]) -> str:
    """One user message that states one or two facts."""
    chinese = chosen[0][0].chinese
    leads = frames("recall")["lead_zh" if chinese else "lead_en"]
    lead = rng.choice(leads)[1:-1] if rng.random() < 0.4 else ""
    join = rng.choice(("，", "。") if chinese else (" and ", ". ", ", ", ", and ", ". Also, "))
    spun = [(expand(rng, rng.choice(fact.tell)), value) for fact, value in chosen]
    text = join.join(fill(_worn(rng, template, chinese=chinese), v=value) for template, value in spun)
    if rng.random() < 0.2:
        lead = chatter(rng, chinese=chinese, longest=8) + rng.choice(("，", "。") if chinese else (", ", ". ", ": "))
    if rng.random() < 0.15:
        text += rng.choice(("，", "。") if chinese else (", ", ". ", " and ")) + chatter(
            rng, chinese=chinese, longest=8
        )
    return lead + text + rng.choice(("。", "") if chinese else (".", ".", "", "!"))


def _tell(rng: Random, chosen: list[tuple[Fact, str]]) -> Dialogue:
    fact, value = chosen[0]
    note = fill(fact.note, v=value)
    return [say("user", _statement(rng, chosen)), say("assistant", note)]


def _ask(rng: Random, fact: Fact, value: str) -> Dialogue:
    draw = rng.random()
    if fact.names and draw < 0.5:
        frame = phrase(rng, "recall", "ask", chinese=fact.chinese)
        question = fill(decorate(rng, expand(rng, frame), plain=0.8, blurred=0.1), q=rng.choice(fact.names))
    elif fact.cues and draw < 0.65:
        question = rough(rng, scatter(rng, [rng.choice(fact.cues)], chinese=fact.chinese))
    else:
        question = decorate(rng, spin(rng, rng.choice(fact.ask)), plain=0.6)
    return [say("user", question), say("assistant", fill(fact.reply, v=value))]


def recall(rng: Random, distractor: Callable[[Random], Dialogue]) -> Dialogue:
    """Facts, distractor turns, possibly a change of mind, then questions about the facts."""
    chinese = rng.random() < 0.45
    pool = facts(chinese=chinese)
    chosen = [(fact, _draw(rng, fact)) for fact in rng.sample(pool, rng.choice((1, 1, 2, 2, 3, 4)))]
    others = [_anything(rng, chinese=chinese) for _ in range(rng.choice((0, 0, 0, 0, 1, 2)))]
    chosen = list({fact.kind: (fact, value) for fact, value in [*chosen, *others]}.values())
    rng.shuffle(chosen)
    dialogue: Dialogue = []
    index = 0
    while index < len(chosen):
        step = 2 if rng.random() < 0.3 else 1
        dialogue += _tell(rng, chosen[index : index + step])
        index += step
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            dialogue += distractor(rng)
    if rng.random() < 0.15:
        changed = rng.randrange(len(chosen))
        fact = chosen[changed][0]
        drawn = _draw(rng, fact) if fact in pool else any_value(rng, chinese=chinese)
        chosen[changed] = (fact, drawn)
        update = rng.choice(
            ("我改主意了，", "更正一下，", "现在")
            if chinese
            else ("Actually, ", "Correction: ", "I changed my mind. Now ", "Sorry, I mean ")
        )
        note = "好的，我记住了。" if chinese else "OK, I will remember that."
        dialogue += [say("user", update + _statement(rng, [chosen[changed]])), say("assistant", note)]
    for _ in range(rng.choice((0, 1, 1, 2))):
        dialogue += distractor(rng)
    for fact, value in rng.sample(chosen, rng.randrange(1, min(3, len(chosen)) + 1)):
        dialogue += _ask(rng, fact, value)
    if rng.random() < 0.06:
        question = phrase(rng, "recall", "first", chinese=chinese)
        dialogue += [say("user", question), say("assistant", dialogue[0]["content"])]
    return dialogue
