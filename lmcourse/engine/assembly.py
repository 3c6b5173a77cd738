"""Assembly: a decoder becomes a machine that steps: blocks and their memory, the runner, the longest session.

One function for every rank, so that all of them come to the same numbers: where they could differ, by the memory that
is free, the smallest counts.

Lesson: 2 (passing engine parameters), 9 (more than one GPU)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.features import Encoder
from lmcourse.engine.graphs import choose_recorder
from lmcourse.engine.kv_cache import make_kv_cache
from lmcourse.engine.runner import ModelRunner, count_weight_bytes
from lmcourse.engine.settings import choose_session_len, scale_queries, scale_rotary
from lmcourse.layers import Linear

if TYPE_CHECKING:
    from lmcourse.models import Decoder

__all__ = ["Machine", "assemble"]


class Machine(NamedTuple):
    """What steps are run on."""

    runner: ModelRunner
    blocks: BlockManager
    session_len: int
    weight_bytes: int


def assemble(decoder: Decoder, config: TurbomindEngineConfig, encoder: Encoder | None = None) -> Machine:
    """Takes decoder and encoder over, and the memory of the KV cache."""
    spec = scale_queries(scale_rotary(decoder.spec, config.rope_scaling_factor), asked=config.use_logn_attn)
    if spec != decoder.spec:
        decoder.respecify(spec)
    weight_bytes = count_weight_bytes(decoder, encoder)
    for module in decoder.modules():
        if isinstance(module, Linear):
            module.arrange()
    recorder = choose_recorder(config, decoder.device)
    memory = {"weight_bytes": weight_bytes, "num_spare": int(recorder is not None)}
    kv, blocks = make_kv_cache(decoder, config, **memory)
    cache_tokens = blocks.num_blocks * blocks.tokens_per_block
    session_len = choose_session_len(config.session_len, spec, cache_tokens=cache_tokens)
    runner = ModelRunner(
        decoder,
        kv,
        most_rows=min(config.max_batch_size, config.max_prefill_token_num),
        session_len=session_len,
        recorder=recorder,
        encoder=encoder,
    )
    return Machine(runner, blocks, session_len, weight_bytes)
