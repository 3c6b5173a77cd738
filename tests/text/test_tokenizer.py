"""Tokenizer and TextStream against transformers, tokenizers and sentencepiece themselves."""

import gc
import json
import sys

import pytest

from lmcourse.bundled import model_path
from lmcourse.errors import CheckpointError, PromptError
from lmcourse.text.tokenizer import TextStream, Tokenizer

MARKS = ("<|im_start|>", "<|im_end|>")
TEXTS = (
    "", " ", "  ", "hello world", " leading", "trailing ", "two  spaces", "\ttab\nline\r\n", "上海是一个城市",
    "😀 naïve Straße", "mixed 你好hello", "<s>", "a<s>b</s> c", "<|im_start|>user\nhello <|im_end|>\n<|im_start|>",
    "I'm 3.14!", "▁already▁", "e\u0301 combining", "\u200bzero", "<0x41> literally", "\x00 nul",
)  # fmt: skip


def round_trip(tokenizer: Tokenizer, text: str) -> str:
    """What decoding makes of an encoded text: itself, but ▁ is how SentencePiece spells a space."""
    return text if tokenizer.token_id("Ġ") is not None else text.replace("▁", " ")


def random_text(rng, length: int = 60) -> str:
    """Words, spaces, marks and arbitrary characters outside the surrogates."""
    parts = [
        lambda: rng.choice(["hello", "world", "你好", "3.14", "don't", *MARKS, "<s>"]),
        lambda: " " * rng.randint(1, 3),
        lambda: chr(
            rng.choice([rng.randrange(0x20, 0x7F), rng.randrange(0x80, 0xD800), rng.randrange(0xE000, 0x110000)])
        ),
    ]
    return "".join(rng.choice(parts)() for _ in range(length))


def streamed(tokenizer: Tokenizer, ids, *, skip: bool) -> list[str]:
    stream = TextStream(tokenizer, skip_special_tokens=skip)
    return [*(stream.push(i) for i in ids), stream.flush()]


@pytest.fixture(params=["byte_level", "byte_fallback", "unstripped", "sentence_piece", "no_prefix", "not_legacy"])
def any_tokenizer(request, json_folder, internlm2_folder):
    folders = {
        "sentence_piece": lambda: internlm2_folder(),
        "no_prefix": lambda: internlm2_folder(dummy_prefix=False),
        "not_legacy": lambda: internlm2_folder(legacy=False),
    }
    if request.param in folders:
        return Tokenizer.from_folder(folders[request.param]())
    return Tokenizer.from_folder(json_folder(request.getfixturevalue(f"{request.param}_tokenizer")))


@pytest.mark.parametrize("skip", [True, False])
def test_stream_random_ids_equals_decode(any_tokenizer, rng, skip):
    for length in (1, 2, 7, 400):
        ids = [rng.randrange(any_tokenizer.vocab_size + 2) for _ in range(length)]
        pushed = streamed(any_tokenizer, ids, skip=skip)
        assert "".join(pushed) == any_tokenizer.decode(ids, skip_special_tokens=skip), ids


def test_stream_random_text_never_shows_half_a_character(any_tokenizer, rng):
    for _ in range(20):
        text = random_text(rng)
        pushed = streamed(any_tokenizer, any_tokenizer.encode(text, add_bos=False), skip=False)
        assert ("�" in "".join(pushed)) == ("�" in text)
        for mark in (*MARKS, "<s>"):  # Llama's tokenizer.json adds a space after each mark, and decoding shows it
            text = text.replace(mark, "")
        pushed = streamed(any_tokenizer, any_tokenizer.encode(text, add_bos=False), skip=False)
        assert "".join(pushed) == round_trip(any_tokenizer, text)


def test_stream_unfinished_character_is_flushed_as_replacement(any_tokenizer):
    ids = any_tokenizer.encode("ok \U0001f9ea", add_bos=False)
    stream = TextStream(any_tokenizer)
    assert "".join(map(stream.push, ids[:-1])) == "ok "
    assert stream.flush() == "�"


def test_push_cost_does_not_grow_with_the_text(any_tokenizer):
    """Work per push is counted in calls, since times differ between machines."""
    ids = any_tokenizer.encode("hello world 你好 😀 " * 200, add_bos=False)
    stream = TextStream(any_tokenizer)
    calls = []
    gc.collect()
    gc.disable()  # what others left is not collected, and its finalisers not called, in the midst of a push
    sys.setprofile(lambda frame, event, argument: calls.append(1))
    try:
        counts = [(calls.clear(), stream.push(i), len(calls))[2] for i in ids]
    finally:
        sys.setprofile(None)
        gc.enable()
    assert max(counts[len(counts) // 2 :]) <= max(counts[: len(counts) // 2])


def test_encode_then_decode_returns_the_text(any_tokenizer):
    for text in TEXTS:
        ids = any_tokenizer.encode(text, add_bos=False)
        if "s>" not in text and "|>" not in text:
            assert any_tokenizer.decode(ids, skip_special_tokens=False) == round_trip(any_tokenizer, text)


@pytest.mark.parametrize("any_tokenizer", ["byte_level", "unstripped", "sentence_piece", "no_prefix"], indirect=True)
def test_encode_then_decode_returns_the_text_around_marks(any_tokenizer):
    for text in TEXTS:
        ids = any_tokenizer.encode(text, add_bos=False)
        assert any_tokenizer.decode(ids, skip_special_tokens=False) == round_trip(any_tokenizer, text)


def test_encode_add_bos_is_not_doubled(any_tokenizer):
    assert any_tokenizer.encode("hello", add_bos=True)[0] == any_tokenizer.bos_id == 1
    assert any_tokenizer.encode("<s>hello", add_bos=True).count(1) == 1
    assert any_tokenizer.encode("hello", add_bos=False)[0] != 1


def test_encode_marks_become_one_token_each(any_tokenizer):
    for mark in MARKS:
        assert any_tokenizer.encode(mark, add_bos=False) == [any_tokenizer.token_id(mark)]
        assert any_tokenizer.decode(any_tokenizer.encode(f"{mark}hello", add_bos=False)) == "hello"


def test_encode_half_a_surrogate_pair_is_refused(any_tokenizer):
    with pytest.raises(PromptError, match="character 3"):
        any_tokenizer.encode("abc\ud83d", add_bos=True)


def test_decode_unknown_ids_have_no_text_and_negative_ids_are_refused(any_tokenizer):
    assert any_tokenizer.decode([any_tokenizer.vocab_size, any_tokenizer.vocab_size + 10_000]) == ""
    with pytest.raises(PromptError, match="not negative"):
        any_tokenizer.decode([-1])


# tokenizer.json, against transformers


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "unstripped"])
def test_json_texts_equal_transformers(kind, request, json_folder, rng):
    import transformers

    folder = json_folder(request.getfixturevalue(f"{kind}_tokenizer"))
    ours = Tokenizer.from_folder(folder)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    theirs.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": list(MARKS)})
    for text in (*TEXTS, *(random_text(rng) for _ in range(20))):
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text, add_bos=False) == ids, text
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special_tokens=skip) == expected


def test_json_byte_level_random_ids_equal_transformers(byte_level_tokenizer, json_folder, rng):
    """Arbitrary ids make bytes that are no UTF-8; both sides must replace the same stretches."""
    ours = Tokenizer.from_folder(json_folder(byte_level_tokenizer))
    for _ in range(50):
        ids = [rng.randrange(ours.vocab_size) for _ in range(30)]
        assert ours.decode(ids, skip_special_tokens=False) == byte_level_tokenizer.decode(
            ids, skip_special_tokens=False
        )


def test_json_training_settings_do_not_cut_prompts(byte_level_tokenizer, json_folder):
    import tokenizers

    copy = tokenizers.Tokenizer.from_str(byte_level_tokenizer.to_str())
    copy.enable_truncation(4)
    copy.enable_padding(length=64)
    ids = Tokenizer.from_folder(json_folder(copy)).encode("hello world " * 50, add_bos=False)
    assert ids == byte_level_tokenizer.encode("hello world " * 50).ids


def test_json_unusual_decoder_streams_what_the_library_decodes(json_folder, rng):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    words = ["[UNK]", "<s>", "</s>", *MARKS, "un", "##believ", "##able", "word", "##s"]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    ours = Tokenizer.from_folder(json_folder(tokenizer))
    ids = ours.encode("unbelievable words word", add_bos=False)
    assert "".join(streamed(ours, ids, skip=True)) == tokenizer.decode(ids) == "unbelievable words word"


def test_json_bos_follows_the_post_processor_unless_config_says_otherwise(byte_level_tokenizer, json_folder):
    import tokenizers
    from tokenizers import processors

    assert not Tokenizer.from_folder(json_folder(byte_level_tokenizer)).adds_bos
    assert Tokenizer.from_folder(json_folder(byte_level_tokenizer, add_bos_token=True)).adds_bos
    copy = tokenizers.Tokenizer.from_str(byte_level_tokenizer.to_str())
    copy.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert Tokenizer.from_folder(json_folder(copy)).adds_bos


def test_json_takes_tokens_that_only_the_config_lists(byte_level_tokenizer, json_folder):
    size = byte_level_tokenizer.get_vocab_size()
    rows = {str(size): {"content": "<|extra|>", "special": True}}
    folder = json_folder(byte_level_tokenizer, added_tokens_decoder=rows)
    assert Tokenizer.from_folder(folder).encode("a<|extra|>", add_bos=False)[-1] == size
    rows = {str(size + 5): {"content": "<|extra|>", "special": True}}
    with pytest.raises(CheckpointError, match="different ids"):
        Tokenizer.from_folder(json_folder(byte_level_tokenizer, added_tokens_decoder=rows))


def test_json_marks_that_are_plain_words_of_the_vocabulary_are_recognised(byte_level_tokenizer, json_folder):
    """A conversion may leave marks out of added_tokens; the config's names still make each one token."""
    import tokenizers
    import transformers

    data = json.loads(byte_level_tokenizer.to_str())
    data["added_tokens"] = []
    size = byte_level_tokenizer.get_vocab_size()
    rows = {"3": {"content": MARKS[0], "special": True}, str(size): {"content": "<|end|>", "rstrip": True}}
    folder = json_folder(tokenizers.Tokenizer.from_str(json.dumps(data)), added_tokens_decoder=rows)
    ours = Tokenizer.from_folder(folder)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for text in ("<s>hello<|im_start|>user<|im_end|>\n", "a<|end|>  b</s>"):
        ids = ours.encode(text, add_bos=False)
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_json_of_tiny_chat_equals_transformers(rng):
    import transformers

    ours = Tokenizer.from_folder(model_path("tiny-chat"))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(model_path("tiny-chat"))
    for text in (*TEXTS, *(random_text(rng) for _ in range(20))):
        ids = ours.encode(text, add_bos=True)
        assert ids == theirs.encode(text) or text.startswith("<s>")
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


# tokenizer.model, against sentencepiece and transformers


def reference_slow(folder, *, legacy: bool = True):
    """transformers' own class over a SentencePiece model, given the same added tokens."""
    from transformers import AddedToken
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    config = json.loads((folder / "tokenizer_config.json").read_text())
    rows = {int(i): AddedToken(row["content"], special=True) for i, row in config["added_tokens_decoder"].items()}
    return type("Reference", (SentencePieceBackend,), {})(
        vocab_file=str(folder / "tokenizer.model"), legacy=legacy, added_tokens_decoder=rows,
        bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip


@pytest.mark.parametrize("dummy_prefix", [True, False])
def test_sentence_piece_encode_equals_transformers_slow(internlm2_folder, rng, dummy_prefix):
    folder = internlm2_folder(dummy_prefix)
    ours, theirs = Tokenizer.from_folder(folder), reference_slow(folder)
    for text in (*TEXTS, *(random_text(rng) for _ in range(20))):
        assert ours.encode(text, add_bos=False) == theirs.encode(text, add_special_tokens=False), text


def test_sentence_piece_not_legacy_encode_equals_transformers(internlm2_folder):
    """transformers' LlamaTokenizer adds the prefix to the start only (but not before a space)."""
    import transformers
    from transformers.tokenization_utils_sentencepiece import SentencePieceExtractor

    folder = internlm2_folder(legacy=False)
    vocab, _, merges = SentencePieceExtractor(str(folder / "tokenizer.model")).extract(True)
    theirs = transformers.LlamaTokenizer(vocab=vocab, merges=merges, legacy=False)
    ours = Tokenizer.from_folder(folder)
    for text in ("hello world", "a<s>b c</s> d", "<s>hello</s>world 你好", "two  spaces Straße"):
        assert ours.encode(text, add_bos=False) == theirs.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize("dummy_prefix", [True, False])
@pytest.mark.parametrize("strip_spaces", [True, False])
def test_sentence_piece_random_ids_decode_as_the_library(
    sentence_piece_models, tmp_path, rng, dummy_prefix, strip_spaces
):
    import sentencepiece

    model = sentence_piece_models(dummy_prefix, strip_spaces)
    (tmp_path / "tokenizer.model").write_bytes(model)
    ours, theirs = Tokenizer.from_folder(tmp_path), sentencepiece.SentencePieceProcessor(model_proto=model)
    plain = [i for i in range(theirs.get_piece_size()) if not theirs.is_byte(i)]
    space = theirs.piece_to_id("▁")
    for _ in range(100):
        ids = [space] * rng.randrange(4) + rng.choices(plain, k=20)
        assert ours.decode(ids) == theirs.decode(ids), ids
    assert ours.decode([theirs.piece_to_id("<0x20>"), space]) == "  "


def test_sentence_piece_reserved_pieces_take_the_configured_text(internlm2_folder):
    tokenizer = Tokenizer.from_folder(internlm2_folder())
    start, end = (tokenizer.token_id(mark) for mark in MARKS)
    assert (start, end) == (3, 4)
    assert tokenizer.token_id("<|beyond|>") == tokenizer.vocab_size - 1
    ids = tokenizer.encode("<|im_start|>user\nhello<|im_end|><|beyond|>", add_bos=True)
    assert ids[:2] == [1, start]
    assert ids[-2:] == [end, tokenizer.vocab_size - 1]
    assert tokenizer.decode(ids) == "user\nhello"


def test_sentence_piece_added_tokens_json_and_stripping_flags(internlm2_folder):
    folder = internlm2_folder()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["9000"] = {"content": "<|end|>", "special": True, "rstrip": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text('{"<|tool|>": 9001}')
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("<|end|> \n", add_bos=False) == [9000]
    assert tokenizer.encode("<|tool|>", add_bos=False) == [9001]
    assert tokenizer.decode([9001]) == "<|tool|>"  # added_tokens.json lists tokens that are not special
    (folder / "added_tokens.json").write_text('{"<|end|>": 8000}')
    with pytest.raises(CheckpointError, match="different ids"):
        Tokenizer.from_folder(folder)


# Bad files


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer"),
        ({"tokenizer.json": b'{"version": "1.0", "mod'}, "cannot be read"),
        ({"tokenizer.json": b""}, "cannot be read"),
        ({"tokenizer.model": b"not a model"}, "not a SentencePiece model"),
        ({"tokenizer.model": b""}, "not a SentencePiece model"),
        ({"tokenizer.model": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"}, "git lfs pull"),
        ({"tokenizer_config.json": b"[1]", "tokenizer.json": b"{}"}, "JSON object"),
        ({"tokenizer_config.json": b"{", "tokenizer.json": b"{}"}, "not valid JSON"),
        ({"tokenizer_config.json": b"\xff\xfe", "tokenizer.json": b"{}"}, "not valid JSON"),
        (
            {"tokenizer_config.json": b'{"added_tokens_decoder": {"x": 1}}', "tokenizer.model": b""},
            "added_tokens_decoder",
        ),
        ({"added_tokens.json": b'{"a": "b"}', "tokenizer.model": b""}, "an entry"),
    ],
)
def test_from_folder_bad_files_are_named_errors(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.from_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.next_step


def test_from_folder_truncated_sentence_piece_is_an_error(tmp_path, sentence_piece_models):
    model = sentence_piece_models()
    (tmp_path / "tokenizer.model").write_bytes(model[: len(model) // 2])
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        Tokenizer.from_folder(tmp_path)


def test_from_folder_does_not_open_a_pipe(tmp_path):
    import os

    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="not a file"):
        Tokenizer.from_folder(tmp_path)
