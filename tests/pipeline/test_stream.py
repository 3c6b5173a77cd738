"""AnswerStream: pieces that add up, and requests that end with their stream."""

import gc

import pytest

from lmcourse import GenerationConfig
from lmcourse.errors import ConfigError, PromptError

TWO = GenerationConfig(max_new_tokens=2)


def test_pieces_of_a_batch_add_up_to_the_answers(real):
    prompts = ["hello", "上海是", "time management"]
    settings = {"max_new_tokens": 9, "temperature": 1.0, "random_seed": 5, "logprobs": 2}
    whole = real(prompts, **settings)
    texts, ids, logprobs, ends = [""] * 3, [[], [], []], [[], [], []], [None] * 3
    with real.stream_infer(prompts, **settings) as stream:
        for piece in stream:
            texts[piece.session_id] += piece.text
            ids[piece.session_id] += piece.token_ids
            logprobs[piece.session_id] += piece.logprobs or []
            ends[piece.session_id] = piece.finish_reason
            assert piece.generate_token_len == len(ids[piece.session_id])
            assert piece.input_token_len == whole[piece.session_id].input_token_len
    assert (texts, ids, logprobs, ends) == (
        [r.text for r in whole], [r.token_ids for r in whole],
        [r.logprobs for r in whole], [r.finish_reason for r in whole],
    )  # fmt: skip
    assert stream.responses == whole


def test_finish_reason_is_set_on_the_last_piece_only(fake):
    pieces = list(fake.stream_infer(["a", "b"], GenerationConfig(max_new_tokens=3)))
    for number in (0, 1):
        own = [piece.finish_reason for piece in pieces if piece.session_id == number]
        assert own == [None, None, "length"]


def test_checks_happen_before_the_first_piece(fake):
    with pytest.raises(PromptError):
        fake.stream_infer("")
    with pytest.raises(ConfigError):
        fake.stream_infer("hello", top_kk=1)


@pytest.mark.parametrize("leave", ["close", "with", "drop", "untouched"])
def test_leaving_a_stream_ends_its_requests_only(fake, leave):
    other = fake.stream_infer("other", GenerationConfig(max_new_tokens=4))
    stream = fake.stream_infer(["a", "b"], GenerationConfig(max_new_tokens=50))
    if leave != "untouched":
        next(stream)
    if leave == "close":
        stream.close()
        stream.close()
    elif leave == "with":
        with stream:
            pass
    else:
        del stream
        gc.collect()
    assert [piece.text for piece in other] == ["0.0 ", "0.1 ", "0.2 ", "0.3 "]
    assert fake.engine.aborted == [1, 2]
    assert not fake.engine.running


def test_a_closed_stream_keeps_what_came_and_gives_no_more(fake):
    stream = fake.stream_infer("a", GenerationConfig(max_new_tokens=50))
    next(stream), next(stream)
    stream.close()
    assert list(stream) == []
    assert stream.responses[0].text == "0.0 0.1 "
    assert stream.responses[0].finish_reason is None


def test_interleaved_streams_share_steps(fake):
    streams = [fake.stream_infer(name, GenerationConfig(max_new_tokens=5)) for name in "abc"]
    for _ in range(5):
        for stream in streams:
            next(stream)
    assert fake.engine.num_steps == 5
    assert [s.responses[0].text for s in streams] == [f"{i}.0 {i}.1 {i}.2 {i}.3 {i}.4 " for i in range(3)]


def test_interrupt_ends_the_calls_requests_and_the_pipeline_stays_usable(fake):
    other = fake.stream_infer("other", GenerationConfig(max_new_tokens=4))
    next(other)

    def interrupt():
        if fake.engine.num_steps == 3:
            fake.engine.before_step = lambda: None
            raise KeyboardInterrupt

    fake.engine.before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        fake(["a", "b"], GenerationConfig(max_new_tokens=50))
    assert fake.engine.aborted == [1, 2]
    assert [piece.text for piece in other][-1] == "0.3 "
    assert fake("again", TWO).text == "3.0 3.1 "


def test_real_interrupt_leaves_no_blocks_behind(real, monkeypatch):
    steps = []
    step = real.engine.step

    def interrupted():
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(real.engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        real(["hello", "world"], max_new_tokens=40, ignore_eos=True)
    monkeypatch.undo()
    real.engine.check()
    assert real.stats().num_running == real.stats().num_waiting == 0
    assert real("hello", max_new_tokens=3).generate_token_len <= 3
