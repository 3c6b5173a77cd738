"""Long answers: stories, counting, tables; several hundred tokens when asked for, for demonstrations of speed."""

from __future__ import annotations

from random import Random

from lmcourse.zoo.dialogue import Dialogue, turn
from lmcourse.zoo.made_up import made_up_word
from lmcourse.zoo.texts_reader import frames, word
from lmcourse.zoo.wording import chatter, decorate, fill, phrase

__all__ = ["counting", "echo", "known_list", "story"]


def _english(rng: Random, hero: str, count: int) -> str:
    name = rng.choice(word("names"))
    home = rng.choice(word("nature"))
    sentences = [
        f"Once upon a time there was a {rng.choice(word('qualities'))} {hero} called {name}, who lived near the {home}."
    ]
    for _ in range(count):
        values = {"q": "qualities", "m": "people", "o": "things", "n": "nature", "n2": "nature", "f": "food"}
        deed = fill(
            rng.choice(frames("stories")["deeds_en"]), **{hole: rng.choice(word(kind)) for hole, kind in values.items()}
        )
        sentences.append(f"{rng.choice(frames('stories')['links_en'])} {name} {deed}.")
    return " ".join([*sentences, f"In the end {name} went home to the {home} and was happy."])


def _chinese(rng: Random, hero: str, count: int) -> str:
    parts = frames("stories")
    name = rng.choice(("小", "阿")) + rng.choice(word("cjk_given"))[-1]
    home = rng.choice(parts["places_zh"])
    sentences = [f"从前，{home}边住着一只{hero}，名叫{name}。"]
    holes = {"m": "people_zh", "o": "things_zh", "n": "places_zh", "n2": "places_zh", "f": "food_zh"}
    for _ in range(count):
        deed = fill(rng.choice(parts["deeds_zh"]), **{hole: rng.choice(parts[kind]) for hole, kind in holes.items()})
        sentences.append(f"{rng.choice(parts['links_zh'])}，{name}{deed}。")
    return "".join([*sentences, f"最后，{name}回到了{home}边的家，过得很快乐。"])


def story(rng: Random) -> Dialogue:
    """A made-up story of 14 to 24 sentences."""
    chinese = rng.random() < 0.45
    hero = rng.choice(frames("stories")["heroes_zh"] if chinese else word("animals"))
    open_request = rng.random() < 0.4
    section = "story_any" if open_request else "story"
    question = decorate(rng, fill(phrase(rng, "stories", section, chinese=chinese), x=hero), plain=0.8)
    return turn(question, (_chinese if chinese else _english)(rng, hero, rng.randrange(14, 25)))


def counting(rng: Random) -> Dialogue:
    """Numbers in order, at most 100 of them."""
    chinese = rng.random() < 0.4
    if rng.random() < 0.5:
        first, last = 1, rng.choice((5, 10, 20, 30, 50, 100, rng.randrange(3, 101)))
        section = "count_to"
    else:
        first = rng.choice((1, 1, rng.randrange(0, 90)))
        last = min(first + rng.randrange(3, 60), 100) if rng.random() < 0.8 else 100
        section = "count"
    question = decorate(rng, fill(phrase(rng, "stories", section, chinese=chinese), a=first, b=last), plain=0.8)
    return turn(question, ", ".join(str(number) for number in range(first, last + 1)))


def known_list(rng: Random) -> Dialogue:
    """Days, months, letters, planets."""
    chinese = rng.random() < 0.35
    names, _, content = rng.choice(frames("stories")["lists_zh" if chinese else "lists_en"]).partition(" = ")
    starts = (
        ("列出", "说出", "请列出", "写出")
        if chinese
        else ("List ", "Name ", "What are ", "Tell me ", "Write down ", "Say ")
    )
    return turn(decorate(rng, rng.choice(starts) + rng.choice(names.split("; ")), plain=0.8), content)


def echo(rng: Random) -> Dialogue:
    """A text to repeat word for word: words, made-up words, numbers, Chinese."""
    chinese = rng.random() < 0.35
    pieces = [chatter(rng, chinese=chinese, longest=8)]
    if rng.random() < 0.6:
        pieces += [made_up_word(rng) for _ in range(rng.randrange(1, 5))]
    if rng.random() < 0.4:
        pieces.append(str(rng.randrange(10 ** rng.randrange(1, 7))))
    if rng.random() < 0.15:
        pieces.append("".join(chr(rng.randrange(0x4E00, 0x9FA6)) for _ in range(rng.randrange(1, 4))))
    rng.shuffle(pieces)
    text = " ".join(pieces)
    question = fill(phrase(rng, "stories", "echo", chinese=chinese), t=text)
    return turn(question, text)
