"""Answer: tokens, text and the end, one token at a time."""

from __future__ import annotations

import pytest
from engine_fakes import join_outputs

from lmcourse.engine.answer import Answer, StepOutput
from lmcourse.engine.stops import StopRule
from lmcourse.text.tokenizer import TextStream


def say(answer: Answer, token_ids: list[int]) -> StepOutput:
    outputs = []
    for token_id in token_ids:
        answer.push(token_id)
        if answer.has_news:
            outputs.append(answer.take())
        if answer.finish_reason:
            break
    return join_outputs(outputs)


def answer_for(tokenizer, **rule: object) -> Answer:
    return Answer(4, StopRule(**rule), TextStream(tokenizer))


def test_push_stop_id_ends_without_the_stop_token(tokenizer) -> None:
    ids = tokenizer.encode("hello", add_bos=False)
    output = say(answer_for(tokenizer, stop_ids=frozenset({2})), [*ids, 2, *ids])
    assert output == StepOutput(4, ids, "hello", "stop")


def test_push_reaches_the_length(tokenizer) -> None:
    ids = tokenizer.encode("xyz", add_bos=False)
    output = say(answer_for(tokenizer, max_new_tokens=2), ids)
    assert output == StepOutput(4, ids[:2], "xy", "length")


def test_push_stop_id_as_the_last_allowed_token_is_a_stop(tokenizer) -> None:
    output = say(answer_for(tokenizer, max_new_tokens=1, stop_ids=frozenset({2})), [2])
    assert output == StepOutput(4, [], "", "stop")


@pytest.mark.parametrize("word", ["END", "ND", "yEN", "D。", "上海"])
def test_push_stop_string_over_tokens(tokenizer, word: str) -> None:
    ids = tokenizer.encode("xyEND。上海z", add_bos=False)
    output = say(answer_for(tokenizer, stop_strings=(word,)), ids)
    assert output.text == "xyEND。上海z".split(word)[0]
    assert output.finish_reason == "stop"
    assert output.token_ids == ids[: len(output.token_ids)]
    assert word in tokenizer.decode(output.token_ids)


def test_push_lets_held_text_out_when_the_length_is_reached(tokenizer) -> None:
    ids = tokenizer.encode("xyEN", add_bos=False)
    output = say(answer_for(tokenizer, stop_strings=("ENE",), max_new_tokens=len(ids)), ids)
    assert (output.text, output.finish_reason) == ("xyEN", "length")


def test_push_lets_held_text_out_when_a_stop_id_comes(tokenizer) -> None:
    ids = tokenizer.encode("xyEN", add_bos=False)
    output = say(answer_for(tokenizer, stop_strings=("ENE",), stop_ids=frozenset({2})), [*ids, 2])
    assert (output.text, output.finish_reason) == ("xyEN", "stop")


def test_push_never_half_a_character(tokenizer) -> None:
    ids = tokenizer.encode("a🙂é上", add_bos=False)
    answer = answer_for(tokenizer)
    texts = []
    for token_id in ids:
        answer.push(token_id)
        texts.append(answer.take().text)
    assert "".join(texts) == "a🙂é上"
    assert set(texts) == {"", "a", "🙂", "é", "上"}


def test_push_cut_within_a_character_says_so_at_the_end(tokenizer) -> None:
    ids = tokenizer.encode("a🙂", add_bos=False)
    output = say(answer_for(tokenizer, max_new_tokens=3), ids)
    assert (output.text, output.finish_reason) == ("a\ufffd", "length")


def test_push_before_min_new_tokens_nothing_stops(tokenizer) -> None:
    ids = tokenizer.encode("xENDyENDz", add_bos=False)
    early = len(tokenizer.encode("xENDy", add_bos=False))
    output = say(answer_for(tokenizer, stop_strings=("END",), min_new_tokens=early), ids)
    assert (output.text, output.finish_reason) == ("xENDy", "stop")
    output = say(answer_for(tokenizer, stop_ids=frozenset({2}), min_new_tokens=3), [9, 2, 9, 2])
    assert (output.token_ids, output.finish_reason) == ([9, 2, 9], "stop")


def test_take_gives_only_what_is_new(tokenizer) -> None:
    answer = answer_for(tokenizer)
    assert not answer.has_news
    answer.push(70, {70: -1.0})
    answer.push(71, {71: -2.0})
    first = answer.take()
    assert (first.token_ids, first.logprobs) == ([70, 71], [{70: -1.0}, {71: -2.0}])
    assert not answer.has_news
    answer.push(72, {72: -3.0})
    assert answer.take().logprobs == [{72: -3.0}]


def test_push_without_text_source_has_ids_only() -> None:
    answer = Answer(0, StopRule(max_new_tokens=2), None)
    assert say(answer, [5, 6]) == StepOutput(0, [5, 6], "", "length")
