"""A pass key hidden in unrelated text of up to 1,500 tokens, asked for at the end."""

from __future__ import annotations

from random import Random

from lmcourse.zoo.dialogue import Dialogue, say, turn
from lmcourse.zoo.made_up import person_zh
from lmcourse.zoo.parts import expand
from lmcourse.zoo.scenes.course import topics
from lmcourse.zoo.texts_reader import frames, word
from lmcourse.zoo.wording import chatter, decorate, fill, phrase, rough, scatter

__all__ = ["passkey"]

_SCENE = "passkey"

_KIND_OF = {
    **{"q": "qualities", "q2": "qualities", "m": "people", "p": "verbs", "o": "things", "o2": "things", "n": "nature"},
    **{
        "a": "animals",
        "a2": "animals",
        "f": "food",
        "f2": "food",
        "b": "abstract",
        "b2": "abstract",
        "u": "names",
        "u2": "names",
    },
}


def _filler(rng: Random, *, chinese: bool) -> str:
    draw = rng.random()
    if draw < 0.15:
        topic = rng.choice(topics())
        return topic.chinese.answer if chinese else topic.english.answer
    if draw < 0.45:
        text = chatter(rng, chinese=chinese, longest=14) + ("。" if chinese else ".")
        return text[0].upper() + text[1:]
    if chinese:
        values = {
            hole: rng.choice(frames(_SCENE)[f"pieces_{hole[0]}"]) for hole in ("m", "n", "a", "a2", "o", "o2", "f")
        }
        names = [person_zh(rng) for _ in range(2)]
        return fill(
            rng.choice(frames(_SCENE)["sentences_zh"]), d=rng.randrange(2, 100), u=names[0], u2=names[1], **values
        )
    template = rng.choice(frames(_SCENE)["sentences_en"])
    values = {hole: rng.choice(word(kind)) for hole, kind in _KIND_OF.items() if "{" + hole + "}" in template}
    text = fill(template, d=rng.randrange(2, 100), **values)
    return text[0].upper() + text[1:]


def _value(rng: Random) -> str:
    draw = rng.random()
    if draw < 0.88:
        return "".join(rng.choice("0123456789") for _ in range(rng.choice((3, 4, 4, 5, 5, 5, 5, 6, 6, 7, 8))))
    if draw < 0.94:
        return f"{rng.choice(word('qualities'))} {rng.choice(word('animals'))}"
    return "".join(rng.choice("ABCDEFGHJKMNPQRSTUVWXYZ23456789") for _ in range(rng.choice((4, 5, 6))))


def _haystack(rng: Random, characters: int, *, chinese: bool) -> list[str]:
    """Sentences of about that many characters: all different, or a few repeated over and over."""
    sentences = [_filler(rng, chinese=chinese)]
    few = [_filler(rng, chinese=chinese) for _ in range(rng.randrange(1, 6))] if rng.random() < 0.4 else []
    used = len(sentences[0])
    while used < characters:
        sentences.append(few[len(sentences) % len(few)] if few else _filler(rng, chinese=chinese))
        used += len(sentences[-1])
    return sentences


def passkey(rng: Random, *, longest: int = 5600) -> Dialogue:
    """A key in up to `longest` characters of English (fewer of Chinese, whose characters are tokens)."""
    chinese = rng.random() < 0.35
    kind, value = rng.choice(frames(_SCENE)["kinds_zh" if chinese else "kinds_en"]), _value(rng)
    # Chinese takes about one token a character, English about one for four.
    size = int(longest * rng.random() ** 1.9 * (0.27 if chinese else 1.0))
    sentences = _haystack(rng, size, chinese=chinese)
    hidden = fill(expand(rng, phrase(rng, _SCENE, "hide", chinese=chinese)), k=kind, v=value)
    place = rng.randrange(len(sentences) + 1)
    sentences.insert(place, hidden if hidden.startswith(value) else hidden[0].upper() + hidden[1:])
    body = ("" if chinese else rng.choice((" ", " ", " ", "\n"))).join(sentences)
    intro = fill(phrase(rng, _SCENE, "intro", chinese=chinese), k=kind)
    draw = rng.random()
    if draw < 0.4:
        frame = expand(rng, phrase(rng, "recall", "ask", chinese=chinese))
        question = fill(rough(rng, frame), q="{k}" if chinese else "the {k}")
        question = fill(question, k=kind)
    elif draw < 0.6:
        question = fill(rough(rng, scatter(rng, ["{k}"], chinese=chinese)), k=kind)
    else:
        frame = expand(rng, phrase(rng, _SCENE, "ask", chinese=chinese))
        question = fill(decorate(rng, frame, plain=0.7), k=kind)
    reply = f"{kind}是 {value}。" if chinese else f"The {kind} is {value}."
    if rng.random() < 0.15:
        noted = f"好的，{reply}" if chinese else f"OK. {reply}"
        return [*turn(intro + body, noted), say("user", question), say("assistant", reply)]
    return turn(intro + body + rng.choice(("\n", "\n\n", " ")) + question, reply)
