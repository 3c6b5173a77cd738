"""tiny-chat's tokenizer: ids in InternLM2's order, any text comes back unchanged."""

from __future__ import annotations

from random import Random

import pytest
from tokenizers import Tokenizer

from lmcourse.bundled import model_path
from lmcourse.errors import ConfigError
from lmcourse.zoo.tokenizer import FIRST_TOKENS, LAST_TOKENS, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(model_path("tiny-chat") / "tokenizer.json"))


def _random_text(rng: Random) -> str:
    ranges = ((32, 127), (0x4E00, 0x9FFF), (0, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF), (9, 14))
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randrange(1, 80)))


def test_tokenizer_round_trip_of_random_unicode(tokenizer: Tokenizer) -> None:
    seed = Random().randrange(2**32)
    print("seed", seed)
    rng = Random(seed)
    for _ in range(500):
        text = _random_text(rng)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_tokenizer_special_ids_follow_internlm2(tokenizer: Tokenizer) -> None:
    vocab = tokenizer.get_vocab_size()
    assert vocab == 4096
    assert [tokenizer.token_to_id(token) for token in FIRST_TOKENS] == [0, 1, 2]
    assert [tokenizer.token_to_id(token) for token in LAST_TOKENS] == list(range(vocab - 6, vocab))
    assert tokenizer.encode("a").ids[0] == 1, "<s> is put in front"


def test_tokenizer_splits_digits_and_han_characters(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("上海2024", add_special_tokens=False).ids]
    assert pieces == ["上", "海", "2", "0", "2", "4"]


def test_train_tokenizer_too_little_text_raises() -> None:
    with pytest.raises(ConfigError, match="too little text"):
        train_tokenizer(["a b c"], vocab=4096)


def test_train_tokenizer_small_vocabulary_round_trips() -> None:
    made = train_tokenizer(["the cat sat on the mat 123 上海是"] * 50, vocab=280)
    ids = made.encode("ünknown 🎉 上海", add_special_tokens=False).ids
    assert made.decode(ids) == "ünknown 🎉 上海"
    assert [made.token_to_id(token) for token in LAST_TOKENS] == list(range(274, 280))
