"""tiktoken files against byte-pair encoding written out naively, and against Qwen's published numbering."""

import base64
import itertools

import pytest

from lmcourse.errors import CheckpointError
from lmcourse.text.tiktoken_file import TIKTOKEN_FILES, join_pairs
from lmcourse.text.tokenizer import TextStream, Tokenizer

SAMPLE = "the quick brown fox aaaa aaa    \n\n hello 你好 上海 1234 don't naïve lower lowest".encode()
PARTS = (
    "the",
    "quick",
    "aaaa",
    "a",
    " ",
    "   ",
    "\n",
    "你好",
    "上海",
    "1234",
    "'s",
    "😀",
    "nai\u0308ve",
    "<|im_start|>",
    "<img>",
)


def random_ranks(rng, count: int = 900) -> dict[bytes, int]:
    """All bytes in random order, then pieces of a text and joins of what there is, so that paths compete."""
    ranks = {bytes([byte]): rank for rank, byte in enumerate(rng.sample(range(256), 256))}
    while len(ranks) < count:
        start = rng.randrange(len(SAMPLE) - 3)
        token = SAMPLE[start : start + rng.randint(2, 7)] if rng.random() < 0.7 else rng.choice(list(ranks)) * 2
        ranks.setdefault(token, len(ranks))
    return ranks


def join_naively(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Look at all neighbours, join the best pair, start over."""
    parts = [word[i : i + 1] for i in range(len(word))]
    while word not in ranks:
        pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not pairs:
            return [ranks[part] for part in parts]
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[word]]


@pytest.fixture
def qwen(tmp_path, rng):
    """A tokenizer from a random qwen.tiktoken, and the file's ranks."""
    ranks = random_ranks(rng)
    lines = (base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items())
    (tmp_path / "qwen.tiktoken").write_bytes(b"\n".join(lines) + b"\n")
    return Tokenizer.from_folder(tmp_path), ranks


def test_join_pairs_equals_the_naive_way(rng):
    ranks = random_ranks(rng)
    for _ in range(300):
        word = bytes(rng.choice(SAMPLE if rng.random() < 0.9 else b"\xff\x00a") for _ in range(rng.randint(1, 30)))
        assert list(join_pairs(word, ranks)) == join_naively(word, ranks), word
    assert list(join_pairs(b"a" * 257, ranks)) == join_naively(b"a" * 257, ranks)


def test_qwen_text_comes_back_in_normal_form_and_streams(qwen, rng):
    tokenizer, _ = qwen
    for _ in range(50):
        text = "".join(rng.choice(PARTS) for _ in range(20))
        ids = tokenizer.encode(text, add_bos=True)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text.replace("i\u0308", "ï")
        stream = TextStream(tokenizer, skip_special_tokens=False)
        assert "".join([*map(stream.push, ids), stream.flush()]) == text.replace("i\u0308", "ï")


def test_qwen_words_are_cut_as_published(qwen):
    tokenizer, ranks = qwen
    words = ["Hello", " world", "!\n\n", "1", "2", "3", " it", "'s", "   ", " a", " 你好", "…", "\n", "  "]
    expected = [token for word in words for token in join_naively(word.encode(), ranks)]
    assert tokenizer.encode("".join(words), add_bos=True) == expected


def test_qwen_marks_follow_the_ranks_as_published():
    marks = TIKTOKEN_FILES[0].marks
    numbered = {mark: 151643 + i for i, mark in enumerate(marks)}
    published = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|extra_0|>": 151646}
    published |= {"<img>": 151857, "</img>": 151858, "<imgpad>": 151859}
    assert published.items() <= numbered.items()


def test_qwen_marks_are_one_token_and_special(qwen):
    tokenizer, ranks = qwen
    ids = tokenizer.encode("<|im_start|>user\na<|im_end|>", add_bos=True)
    assert (ids[0], ids[-1]) == (len(ranks) + 1, len(ranks) + 2)
    assert tokenizer.decode(ids) == "user\na"
    assert tokenizer.vocab_size == len(ranks) + 217
    assert tokenizer.bos_id is None
    assert not tokenizer.adds_bos


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not base64 at all\n", "line 1"),
        (b"YQ== 0\nYg== x\n", "line 2"),
        (b"YQ== 0\nYg== 2\n", "gaps"),
        (b"YQ== 0\n", "255 single bytes"),
        (b"", "256 single bytes"),
    ],
)
def test_damaged_file_says_where(tmp_path, content, message):
    (tmp_path / "qwen.tiktoken").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a tiktoken vocabulary") as caught:
        Tokenizer.from_folder(tmp_path)
    assert message in str(caught.value)
