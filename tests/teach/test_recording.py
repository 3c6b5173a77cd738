"""A recording holds what the engine answered and did."""

from __future__ import annotations

import warnings

from lmcourse import GenerationConfig, pipeline
from lmcourse.teach import record_run

PROMPTS = ["hello", "What is 48 + 37?", {"prompt_token_ids": [5, 6, 7]}]


def test_record_run_answers_as_a_pipeline_does() -> None:
    run = record_run("tiny-chat", PROMPTS, max_new_tokens=12, cache_max_entry_count=16, dtype="float32")
    with pipeline("tiny-chat") as pipe:
        responses = pipe(PROMPTS, gen_config=GenerationConfig(max_new_tokens=12))
    assert run.texts == tuple(response.text for response in responses)
    assert run.token_ids == tuple(tuple(response.token_ids) for response in responses)
    assert run.prompt_lens == tuple(response.input_token_len for response in responses)
    assert "3 requests" in repr(run)


def test_record_run_fits_the_session_into_a_small_pool() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = record_run("tiny-chat", PROMPTS[:1], max_new_tokens=8, cache_max_entry_count=5, cache_block_seq_len=16)
    assert run.stats.session_len == 80
    assert [run.state(step).step for step in run.steps] == list(run.steps)
    assert run.timeline.num_steps == len(run.steps) - 1


def test_record_run_names_the_steps_of_preemptions() -> None:
    settings = {"cache_max_entry_count": 5, "cache_block_seq_len": 8, "ignore_eos": True, "max_new_tokens": 16}
    run = record_run("tiny-chat", [{"prompt_token_ids": [7] * 12}, {"prompt_token_ids": [9] * 12}], **settings)
    assert len(run.preempted_at) == run.stats.num_preemptions > 0
    assert all("preempted" in run.state(step).doing[1] for step in run.preempted_at)
