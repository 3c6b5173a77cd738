"""Intake: every wrong input has its error; words become ids."""

from __future__ import annotations

import numpy as np
import pytest
from engine_fakes import mirror_spec

from lmcourse.config import GenerationConfig
from lmcourse.engine.intake import Entry, Intake
from lmcourse.errors import ConfigError, PromptError

VOCAB = 300


@pytest.fixture
def intake(tokenizer) -> Intake:
    return Intake(mirror_spec(vocab=VOCAB, eos_ids=(2,)), tokenizer, session_len=20)


def enter(intake: Intake, prompt=(5, 6), stop_ids: frozenset[int] = frozenset(), **gen: object) -> Entry:
    return intake.make_entry(1, prompt, GenerationConfig(**gen), stop_ids)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "empty"),
        ([1, VOCAB], "outside the vocabulary"),
        ([-1], "outside the vocabulary"),
        ([0.5], "list of token ids"),
        (["a"], "list of token ids"),
        ("text", "list of token ids"),
        (None, "list of token ids"),
        ([1] * 20, "too long"),
        ([1] * 500, "too long"),
    ],
)
def test_make_entry_wrong_prompt(intake: Intake, prompt: object, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        enter(intake, prompt)
    assert caught.value.expected is not None or message == "empty"


def test_make_entry_takes_any_whole_numbers(intake: Intake) -> None:
    entry = enter(intake, np.array([3, 4]))
    assert entry.request.token_ids == [3, 4]
    assert all(type(token_id) is int for token_id in entry.request.token_ids)


def test_make_entry_cuts_the_answer_to_the_session(intake: Intake) -> None:
    assert enter(intake, [1] * 19, max_new_tokens=512).request.max_tokens == 20
    assert enter(intake, [1] * 5, max_new_tokens=3).request.max_tokens == 8


def test_make_entry_collects_stop_ids(intake: Intake) -> None:
    gathered = enter(intake, stop_ids=frozenset({3}), stop_token_ids=[9]).answer.rule.stop_ids
    assert gathered == {2, 3, 9}
    assert enter(intake, stop_ids=frozenset({3}), stop_token_ids=[9], ignore_eos=True).answer.rule.stop_ids == {9}


@pytest.mark.parametrize("wrong", [[VOCAB], [-1], ["x"]])
def test_make_entry_stop_id_outside_the_vocabulary(intake: Intake, wrong: list) -> None:
    with pytest.raises(ConfigError, match="stop_token_ids"):
        enter(intake, stop_token_ids=wrong)


@pytest.mark.parametrize(
    ("word", "tokens"),
    [
        ("</s>", {"</s>"}),
        ("<|im_end|>", {"<|im_end|>"}),
        ("hello", {"hello"}),
        (" hello", {"Ġhello"}),
        ("hello!", set()),
    ],
)
def test_make_entry_stop_word_that_is_one_token_is_a_stop_id(intake: Intake, tokenizer, word, tokens) -> None:
    rule = enter(intake, stop_words=[word], ignore_eos=True).answer.rule
    assert rule.stop_ids == {tokenizer.token_id(token) for token in tokens}
    assert rule.stop_strings == (word,)


def test_make_entry_bad_word_bans_both_forms(intake: Intake, tokenizer) -> None:
    banned = enter(intake, bad_words=["hello"]).sampling.banned_ids
    assert set(banned) == {tokenizer.token_id("hello"), tokenizer.token_id("Ġhello")}


def test_make_entry_bad_word_of_several_tokens(intake: Intake) -> None:
    with pytest.raises(ConfigError, match="'hello!' is not one token"):
        enter(intake, bad_words=["hello!"])


def test_make_entry_words_without_a_tokenizer() -> None:
    bare = Intake(mirror_spec(), None, session_len=20)
    for setting in ("stop_words", "bad_words"):
        with pytest.raises(ConfigError, match="need a tokenizer"):
            enter(bare, **{setting: ["x"]})
    assert enter(bare).request.prompt_len == 2


def test_make_entry_no_token_left_to_generate(tokenizer) -> None:
    tiny = Intake(mirror_spec(vocab=2, eos_ids=(0, 1)), tokenizer, session_len=20)
    with pytest.raises(ConfigError, match="leave no token"):
        enter(tiny, prompt=[0], min_new_tokens=1)
