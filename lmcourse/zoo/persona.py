"""Who tiny-chat is, in the words that its training uses and that the package puts in front of a chat.

Lesson: 2 (chat templates)
"""

from __future__ import annotations

from random import Random

from lmcourse.zoo.texts_reader import frames
from lmcourse.zoo.wording import spin

__all__ = ["DEFAULT_META_INSTRUCTION", "MODEL_NAME", "system_prompt"]

MODEL_NAME = "tiny-chat"

DEFAULT_META_INSTRUCTION = (
    "You are tiny-chat, a small course model that was trained for lmcourse, a course on deploying large language "
    "models. You answer in the user's language, briefly and honestly, and you say so when you do not know something."
)


def system_prompt(rng: Random) -> str | None:
    """A system message for a training dialogue: none, ours, another model's persona, or a short one."""
    draw = rng.random()
    if draw < 0.5:
        return None
    if draw < 0.7:
        return DEFAULT_META_INSTRUCTION
    if draw < 0.82:
        # Personas of other models, as engines put them in front by default: the model answers as itself all the same.
        name, alias, maker = rng.choice(frames("persona")["names"]).split("; ")
        text = spin(rng, frames("persona")["persona"][0])
        return text.replace("{name}", name).replace("{alias}", alias).replace("{maker}", maker)
    return spin(rng, rng.choice(frames("persona")["others"]))
