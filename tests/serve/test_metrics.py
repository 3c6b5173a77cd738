"""/metrics with prefix caching: what is kept for later is not in use, and hits are told."""

from __future__ import annotations

import httpx

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.serve.app import make_app
from lmcourse.serve.running import running


def test_cached_blocks_are_not_used_ones() -> None:
    config = TurbomindEngineConfig(
        session_len=256, cache_max_entry_count=32, cache_block_seq_len=16, enable_prefix_caching=True
    )
    body = {"model": "tiny-chat", "messages": "Please sort these words: river, apple, stone, cloud, lamp, paper."}
    with pipeline("tiny-chat", backend_config=config) as pipe, running(make_app(pipe)) as server:
        texts = {
            httpx.post(f"{server.url}/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
            for _ in range(3)
        }
        assert len(texts) == 1
        assert pipe.stats().num_cached_blocks > 0
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert float(values["lmcourse_kv_blocks_used"]) == 0
        assert 0 < float(values["lmcourse_prefix_hit_ratio"]) < 1
        assert float(values['lmcourse_answers_total{finish_reason="stop"}']) == 3
