"""All exercises of the course, in the order of the lessons."""

from __future__ import annotations

from lmcourse.errors import ConfigError
from lmcourse.homework.batch_steps import BATCH_STEPS
from lmcourse.homework.block_allocator import BLOCK_ALLOCATOR
from lmcourse.homework.chat_prompt import CHAT_PROMPT
from lmcourse.homework.decode_limit import DECODE_LIMIT
from lmcourse.homework.deployment import CHAT_COMMAND, ENGINE_SETTINGS, SERVER_COMMAND
from lmcourse.homework.engine_share import ENGINE_SHARE
from lmcourse.homework.event_stream import EVENT_STREAM
from lmcourse.homework.exercise import Exercise
from lmcourse.homework.expert_choice import EXPERT_CHOICE
from lmcourse.homework.fused_biases import FUSED_BIASES
from lmcourse.homework.greedy import GREEDY
from lmcourse.homework.kv_bytes import KV_BYTES
from lmcourse.homework.online_softmax import ONLINE_SOFTMAX
from lmcourse.homework.pack_nibbles import PACK_NIBBLES
from lmcourse.homework.packed_product import PACKED_PRODUCT
from lmcourse.homework.parameters import PARAMETERS
from lmcourse.homework.patches import PATCHES
from lmcourse.homework.scale_search import SCALE_SEARCH
from lmcourse.homework.serving_times import SERVING_TIMES
from lmcourse.homework.speedup import SPEEDUP
from lmcourse.homework.tile_grid import TILE_GRID
from lmcourse.homework.wqkv import WQKV

__all__ = ["EXERCISES", "find_exercise"]

EXERCISES: tuple[Exercise, ...] = (
    PARAMETERS,
    GREEDY,
    WQKV,
    CHAT_PROMPT,
    KV_BYTES,
    BLOCK_ALLOCATOR,
    ONLINE_SOFTMAX,
    SCALE_SEARCH,
    PACK_NIBBLES,
    PACKED_PRODUCT,
    EVENT_STREAM,
    BATCH_STEPS,
    SERVING_TIMES,
    PATCHES,
    TILE_GRID,
    SPEEDUP,
    DECODE_LIMIT,
    EXPERT_CHOICE,
    FUSED_BIASES,
    CHAT_COMMAND,
    SERVER_COMMAND,
    ENGINE_SETTINGS,
    ENGINE_SHARE,
)


def find_exercise(exercise_id: str) -> Exercise:
    """The exercise of that id; ConfigError lists the known ones."""
    for exercise in EXERCISES:
        if exercise.id == exercise_id:
            return exercise
    raise ConfigError(
        f"there is no exercise {exercise_id!r}",
        expected=", ".join(exercise.id for exercise in EXERCISES),
        got=repr(exercise_id),
        next_step="`lmcourse homework list` shows what each is about",
    )
