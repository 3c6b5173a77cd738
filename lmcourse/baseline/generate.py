"""generate_ids: transformers' `generate` for one prompt, token ids in and out, greedy unless told otherwise.

Every setting that a checkpoint's generation_config.json could bring in is stated, so that both sides of a comparison
compute the same thing.

Lesson: 2 (a fair comparison)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

__all__ = ["generate_ids"]


def generate_ids(
    model: Any, prompt_ids: Sequence[int], max_new_tokens: int, *, stop_ids: Iterable[int] = (), **sampling: Any
) -> list[int]:
    """The new ids, without the stop id that ended them. No stop_ids: exactly max_new_tokens of them.

    `sampling` goes to `generate`: do_sample, temperature, top_p, …, streamer.
    """
    stops = list(stop_ids)
    settings = {"do_sample": False, "repetition_penalty": 1.0, "use_cache": True, **sampling}
    ids = torch.tensor([list(prompt_ids)], device=model.device)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else 0,
        **settings,
    )
    new = output[0, ids.shape[1] :].tolist()
    end = next((i for i, token in enumerate(new) if token in stops), len(new))
    return list(new[:end])
