"""The training text of tiny-chat: an endless, seeded stream of dialogues, a fixed mixture of scenes.

Nothing is read from anywhere but zoo/texts and nothing is stored: dialogue i of seed s is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from lmcourse.zoo.dialogue import Dialogue, say
from lmcourse.zoo.persona import system_prompt
from lmcourse.zoo.scenes import arithmetic, capitals, chat, course, passkey, recall, stories, tools, word_lists

__all__ = ["MIXTURE", "dialogue", "dialogues", "exchange"]

Scene = Callable[[Random], Dialogue]

# Short exchanges that stand alone and can follow one another; weights are shares of all exchanges.
_EXCHANGES: tuple[tuple[Scene, float], ...] = (
    (course.course, 25),
    (arithmetic.arithmetic, 17),
    (word_lists.word_list, 38),
    (capitals.capital, 15),
    (chat.small_talk, 8),
    (chat.suggestions, 2.5),
    (chat.joke, 1.5),
    (chat.city, 2.5),
    (chat.out_of_scope, 3),
    (stories.echo, 4),
    (stories.counting, 1),
    (stories.known_list, 0.5),
)


def exchange(rng: Random) -> Dialogue:
    """One question and its answer, of any short kind."""
    scenes, weights = zip(*_EXCHANGES, strict=True)
    chosen: Scene = rng.choices(scenes, weights=weights)[0]
    return chosen(rng)


def _several(rng: Random) -> Dialogue:
    return [message for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 5))) for message in exchange(rng)]


def _distractor(rng: Random) -> Dialogue:
    scenes = (arithmetic.arithmetic, capitals.capital, course.course, word_lists.word_list, chat.small_talk, chat.joke)
    return rng.choice(scenes)(rng)


def _recall(rng: Random) -> Dialogue:
    return recall.recall(rng, _distractor)


def _tools(rng: Random) -> Dialogue:
    return tools.tool_dialogue(rng, exchange)


MIXTURE: tuple[tuple[Scene, float], ...] = (
    (_several, 62),
    (_recall, 25),
    (_tools, 10),
    (passkey.passkey, 3),
    (stories.story, 1),
    (course.course_essay, 1.5),
    (chat.repeated_question, 1.5),
    (chat.completion, 2),
)


def dialogue(rng: Random) -> Dialogue:
    """One training dialogue, with or without a system message."""
    scenes, weights = zip(*MIXTURE, strict=True)
    chosen: Scene = rng.choices(scenes, weights=weights)[0]
    messages = chosen(rng)
    if messages[0]["role"] == "text":
        return messages
    system = system_prompt(rng)
    return [say("system", system), *messages] if system else messages


def dialogues(seed: int) -> Iterator[Dialogue]:
    """The endless stream that belongs to a seed."""
    rng = Random(seed)
    while True:
        yield dialogue(rng)
