"""Session: a conversation that remembers, and keeps what it has when something fails."""

import pytest

from lmcourse import GenerationConfig, Pipeline
from lmcourse.errors import ConfigError, EngineClosedError, PromptError

ONE = GenerationConfig(max_new_tokens=1)


def test_chat_sends_the_whole_conversation(fake, tokenizer):
    session = fake.chat("first", gen_config=ONE)
    assert session.response.text == "0.0 "
    assert fake.chat("second", session, ONE) is session
    text = (
        "<|im_start|>user\nfirst<|im_end|>\n<|im_start|>assistant\n0.0 <|im_end|>\n"
        "<|im_start|>user\nsecond<|im_end|>\n<|im_start|>assistant\n"
    )
    assert fake.engine.added[1].prompt_ids == tokenizer.encode(text, add_bos=True)
    assert session.history == [("first", "0.0 "), ("second", "1.0 ")]
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    assert session.response.session_id == session.session_id


def test_sessions_are_apart_and_take_messages_and_keywords(fake):
    one = fake.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}], max_new_tokens=2)
    two = fake.chat("hi", max_new_tokens=1)
    assert one.session_id != two.session_id
    assert len(one.messages) == 3
    assert len(two.messages) == 2


def test_stream_of_a_session_is_remembered_when_it_ends(fake):
    session = fake.session()
    pieces = [piece.text for piece in session.stream("hello", GenerationConfig(max_new_tokens=3))]
    assert pieces == ["0.0 ", "0.1 ", "0.2 "]
    assert session.history == [("hello", "0.0 0.1 0.2 ")]


def test_cut_answers_are_remembered_as_far_as_they_came(fake):
    session = fake.session()
    long = GenerationConfig(max_new_tokens=50)
    with session.stream("one", long) as stream:
        next(stream)
    assert session.history == [("one", "0.0 ")]
    session.stream("two", long).close()
    assert session.history == [("one", "0.0 ")], "a prompt without any answer is not part of the conversation"
    next(session.stream("three", long))
    fake.chat("four", session, ONE)
    assert [prompt for prompt, _ in session.history] == ["one", "three", "four"]
    assert not fake.engine.running


@pytest.mark.parametrize("prompt", ["", [], [{"role": "robot", "content": "x"}], None])
def test_bad_prompts_leave_the_session_as_it_was(fake, prompt):
    session = fake.chat("hello", gen_config=ONE)
    before = (list(session.history), list(session.messages), session.response)
    with pytest.raises(PromptError):
        fake.chat(prompt, session, ONE)
    assert (session.history, session.messages, session.response) == before
    fake.chat("still there", session, ONE)


def talk_on(pipe, session):
    while True:
        pipe.chat("and then what happened after that", session, max_new_tokens=8)


def test_real_session_that_outgrows_its_length_says_so_with_numbers(real):
    session = real.chat("hello", max_new_tokens=4)
    with pytest.raises(PromptError, match="at most 95 tokens") as caught:
        talk_on(real, session)
    turns = len(session.history)
    assert f"session {session.session_id}, turn {turns + 1}" in str(caught.value)
    assert session.history[0][0] == "hello"
    assert real.chat("hello", max_new_tokens=2).response.generate_token_len <= 2


def test_real_conversation_equals_the_same_messages_at_once(real):
    session = real.chat("hello", max_new_tokens=5)
    real.chat("more", session, max_new_tokens=5)
    assert real(session.messages[:3], max_new_tokens=5).token_ids == session.response.token_ids


def test_close_forgets_and_forbids(fake):
    with fake.chat("hello", gen_config=ONE) as session:
        pass
    assert session.history == session.messages == []
    with pytest.raises(EngineClosedError, match="closed"):
        fake.chat("hello", session)


def test_chat_with_something_else_than_a_session_says_what_to_pass(fake):
    with pytest.raises(ConfigError, match="this is not a session"):
        fake.chat("hello", 1)


def test_session_belongs_to_its_pipeline_and_takes_one_answer(fake):
    other = Pipeline(fake.engine, fake.template)
    with pytest.raises(ConfigError, match="another pipeline"):
        fake.chat("hello", other.session())
    with pytest.raises(ConfigError, match="one answer"):
        fake.chat("hello", n=2)
