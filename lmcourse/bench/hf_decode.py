"""transformers' decode on the same device, weights and prompts, as a student would run it and as it runs best.

    eager       generate() as it comes: a cache that grows, one launch after the other
    compiled    cache_implementation="static", for which generate() compiles the step on CUDA

A criterion that is asked after every token takes the times, so that prefill and compilation stay out of them.

Lesson: 3 (the honest baseline)
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import Tensor

from lmcourse.bench.speed import Speed
from lmcourse.bench.stand import Stand
from lmcourse.bench.workloads import mixed_requests

__all__ = ["HF_KINDS", "TokenClock", "load_hf", "measure_hf_decode"]

HF_KINDS: dict[str, dict[str, Any]] = {"eager": {}, "compiled": {"cache_implementation": "static"}}


class TokenClock:
    """A stopping criterion that never stops; it notes when each token came, in seconds since the clock was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        input_ids[:, -1].tolist()  # waits for the device
        self.times.append(time.perf_counter() - self._started)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def load_hf(stand: Stand, folder: Any) -> Any:
    """transformers' model with the engine's weights."""
    from lmcourse.baseline import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=stand.dtype).to(stand.device)


def measure_hf_decode(
    model: Any, stand: Stand, kind: str, *, batch: int, prompt_len: int = 128, output_len: int = 33
) -> Speed:
    """Tokens per second of `batch` requests in one `generate`; once to warm up, once for the time."""
    lens = (prompt_len, prompt_len)
    requests = mixed_requests(batch, vocab=stand.spec.vocab, prompt_lens=lens, output_lens=(1, 1))
    ids = torch.tensor([request.prompt_ids for request in requests], device=stand.device)
    for _ in range(2):
        clock = TokenClock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=output_len,
                min_new_tokens=output_len,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=[clock],
                **HF_KINDS[kind],
            )
    rate = (len(clock.times) - 1) * batch / max(clock.times[-1] - clock.times[0], 1e-9)
    return Speed(f"transformers {kind}", batch, rate, "tok/s", 0.0, None, 1)
