"""Conversations about pictures in vicuna's form, as rows of tokens: where pictures stand and which tokens are learned.

    <s>USER: <image> × 64 \\n describe this image ASSISTANT:The picture shows …</s>USER: How many …? ASSISTANT: …</s>
             ^ pictures are shown here                      ^ learned, with </s>

An answer begins right after the colon when the model says it, and after a space when a chat template puts it back into
the history; rows have both, and the first token of the second form is not learned.
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from lmcourse.zoo.parts import expand
from lmcourse.zoo.pictures.answers import NO_PICTURE, TALK
from lmcourse.zoo.pictures.questions import MAKERS, ask
from lmcourse.zoo.pictures.scene import Scene, scene
from lmcourse.zoo.texts_reader import frames
from lmcourse.zoo.wording import decorate, fill, phrase, spin

__all__ = ["IMAGE", "IMAGE_TOKENS", "Conversation", "Row", "Turn", "conversation", "tokenised"]

IMAGE, IMAGE_TOKENS = "<image>", 64
_KINDS = tuple(MAKERS)


@dataclass(frozen=True)
class Turn:
    """A question (with <image> where a picture stands), its answer, and whether a template's space precedes it."""

    question: str
    answer: str
    spaced: bool


@dataclass(frozen=True)
class Conversation:
    """Turns, the scenes in order of their <image>, and what stands before the first turn."""

    turns: list[Turn]
    scenes: list[Scene]
    system: str = ""


@dataclass(frozen=True)
class Row:
    """Token ids with pictures expanded, which of them are learned, and the scenes."""

    ids: list[int]
    learned: list[bool]
    scenes: list[Scene]


def _worded(rng: Random, kind: str, holes: dict[str, str], *, chinese: bool) -> str:
    text = phrase(rng, "pictures", kind, chinese=chinese)
    if rng.random() < 0.3:
        text = decorate(rng, text, plain=0.4, blurred=0.0)
    return fill(text, **holes)


def _with_images(rng: Random, question: str, count: int) -> str:
    draw = rng.random()
    if draw < 0.88:
        return f"{IMAGE}\n" * count + question
    return f"{question}\n" + IMAGE * count if draw < 0.95 else f"{IMAGE} " * count + question


def _talk(rng: Random, *, chinese: bool, sees: bool) -> tuple[str, str]:
    """Something that is not about a scene; without a picture a question about one is answered by asking for it."""
    if not sees and rng.random() < 0.45:
        kind = rng.choice(("describe", "background", "digit"))
        return phrase(rng, "pictures", kind, chinese=chinese), NO_PICTURE[chinese]
    kind = rng.choice(("who", "can", "hello", "thanks", "other", "other", "other"))
    odd = expand(
        rng, rng.choice(("<zh>", "<zh><zh>")) if chinese else rng.choice(("<things>", "<general> <general>", "<word>"))
    )
    question = fill(phrase(rng, "pictures", kind, chinese=chinese), odd=odd, n=rng.randrange(1, 100))
    return question, TALK[kind][chinese]


def conversation(rng: Random, *, turns: int, pictures: int) -> Conversation:
    """A conversation of so many turns about so many pictures; questions are about the last picture shown so far."""
    early = max(1, turns // 2)
    shown = sorted(rng.randrange(early) for _ in range(pictures))
    if shown and rng.random() < 0.9:
        shown[0] = 0
    made: list[Turn] = []
    scenes: list[Scene] = []
    chinese = rng.random() < 0.45
    for index in range(turns):
        if rng.random() < 0.15:
            chinese = not chinese
        count = shown.count(index)
        scenes += [scene(rng) for _ in range(count)]
        if not scenes or (not count and rng.random() < 0.06):
            question, answer = _talk(rng, chinese=chinese, sees=bool(scenes))
        else:
            kinds = ("describe",) if rng.random() < (0.35 if count else 0.05) else _KINDS
            asked = ask(rng, scenes[-1], chinese=chinese, kinds=kinds)
            question, answer = _worded(rng, asked.kind, asked.holes, chinese=chinese), asked.answer
        text = _with_images(rng, question, count) if count else question
        made.append(Turn(text, answer, spaced=rng.random() < 0.5 and index < turns - 1))
    system = spin(rng, rng.choice(frames("pictures")["system"])) + " " if rng.random() < 0.15 else ""
    return Conversation(made, scenes, system)


def tokenised(tokenizer: Tokenizer, chats: list[Conversation]) -> list[Row]:
    """The rows of conversations; each <image> becomes IMAGE_TOKENS of its token."""
    texts, masks = [], []
    for chat in chats:
        for index, turn in enumerate(chat.turns):
            start = f"<s>{chat.system}" if index == 0 else ""
            texts += [f"{start}USER: {turn.question} ASSISTANT:", (" " if turn.spaced else "") + turn.answer + "</s>"]
            masks.append(turn.spaced)
    encoded = [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    image, rows, at = tokenizer.token_to_id(IMAGE), [], 0
    for chat in chats:
        ids: list[int] = []
        learned: list[bool] = []
        for _ in chat.turns:
            for token in encoded[2 * at]:
                ids += [token] * (IMAGE_TOKENS if token == image else 1)
            answer = encoded[2 * at + 1]
            learned += [False] * (len(ids) - len(learned)) + [not masks[at]] + [True] * (len(answer) - 1)
            ids += answer
            at += 1
        rows.append(Row(ids, learned, chat.scenes))
    return rows
