"""StopStrings: whatever the splits, the same text comes out, and never a part of a stop string."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcourse.engine.stops import StopStrings


def feed(words: list[str], pieces: list[str]) -> tuple[str, bool]:
    stops = StopStrings(words)
    out = ""
    for piece in pieces:
        text, reached = stops.push(piece)
        out += text
        if reached:
            return out, True
    return out + stops.flush(), False


def cut(words: list[str], text: str) -> tuple[str, bool]:
    """Character by character, by definition: stop when the text first ends with a word, of several the longest."""
    for end in range(1, len(text) + 1):
        done = [word for word in words if text[:end].endswith(word)]
        if done:
            return text[: end - max(map(len, done))], True
    return text, False


@pytest.mark.parametrize("word", ["END", "aa", "。\n", "<|im_end|>", "🙂 ok"])
def test_push_stop_string_split_at_every_position(word: str) -> None:
    text = f"before {word} after {word}"
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            pieces = [text[:first], text[first:second], text[second:]]
            assert feed([word], pieces) == ("before ", True), pieces


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (["ab", "abc"], "xabc", ("x", True)),
        (["bc", "abcd"], "xabcd", ("xa", True)),
        (["abc", "bc"], "xabc", ("x", True)),
        (["aab"], "aaab", ("a", True)),
        (["END"], "ENENE", ("ENENE", False)),
        ([], "anything", ("anything", False)),
    ],
)
def test_push_overlapping_words(words: list[str], text: str, expected: tuple[str, bool]) -> None:
    assert feed(words, [text]) == feed(words, list(text)) == expected == cut(words, text)


@settings(max_examples=300, deadline=None)
@given(
    words=st.lists(st.text("abc", min_size=1, max_size=5), max_size=4),
    text=st.text("abc", max_size=30),
    seed=st.integers(0, 2**32),
)
def test_push_any_split_gives_what_the_definition_gives(words: list[str], text: str, seed: int) -> None:
    rng = random.Random(seed)
    places = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, 8)))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert feed(words, pieces) == cut(words, text)


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), text=st.text("abc", max_size=30))
def test_push_never_lets_out_the_beginning_of_a_stop_string_that_follows(words: list[str], text: str) -> None:
    stops, out = StopStrings(words), ""
    final, reached = cut(words, text)
    for letter in text:
        released, now = stops.push(letter)
        out += released
        assert final.startswith(out), "text went out that the stop string takes back"
        if now:
            break
    assert out == final or not reached
