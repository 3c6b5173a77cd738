"""Small tokenizers trained here, in the forms in which models publish theirs."""

import io
import json
import random

import pytest

_SENTENCES = (
    "the quick brown fox jumps over a lazy dog hello world time management please provide three suggestions café naïve "
    "上海 是 一个 城市 你好 给我 讲个 笑话 模型 部署 Hello World Straße 😀 I'm don't it's 3.14 2024 def return self"
)
WORDS = _SENTENCES.split()
MARKS = ("<|im_start|>", "<|im_end|>")


def corpus(seed: int = 0, lines: int = 400) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(12)) + rng.choice(".!?。\n") for _ in range(lines)]


def train_sentence_piece(*, dummy_prefix: bool = True, strip_spaces: bool = False) -> bytes:
    """A serialized model; the defaults are those of Llama 2: a leading space is added, none are removed."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=out, vocab_size=700, hard_vocab_limit=False, model_type="bpe",
        byte_fallback=True, character_coverage=0.98, split_digits=True, allow_whitespace_only_pieces=True,
        add_dummy_prefix=dummy_prefix, remove_extra_whitespaces=strip_spaces, normalization_rule_name="identity",
        user_defined_symbols=["[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_1]"], num_threads=1, minloglevel=2,
    )  # fmt: skip
    return out.getvalue()


@pytest.fixture(scope="session")
def sentence_piece_models():
    """Serialized models by (dummy_prefix, strip_spaces), each trained once."""
    made = {}

    def get(dummy_prefix: bool = True, strip_spaces: bool = False) -> bytes:
        key = dummy_prefix, strip_spaces
        if key not in made:
            made[key] = train_sentence_piece(dummy_prefix=dummy_prefix, strip_spaces=strip_spaces)
        return made[key]

    return get


@pytest.fixture
def internlm2_folder(tmp_path, sentence_piece_models):
    """InternLM2's files: a SentencePiece model whose reserved pieces the config turns into chat marks."""
    import sentencepiece

    def make(dummy_prefix: bool = True, **settings):
        model = sentence_piece_models(dummy_prefix)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = {pieces.piece_to_id(f"[UNUSED_TOKEN_{i}]"): mark for i, mark in enumerate(MARKS)}
        ids |= {0: "<unk>", 1: "<s>", 2: "</s>", pieces.get_piece_size() + 3: "<|beyond|>"}
        config = {
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>",
            "additional_special_tokens": [*MARKS, "<|beyond|>"],
            "added_tokens_decoder": {str(i): {"content": text, "special": True} for i, text in ids.items()},
        }  # fmt: skip
        (tmp_path / "tokenizer.model").write_bytes(model)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | settings))
        return tmp_path

    return make


@pytest.fixture
def rng():
    """A generator whose fresh seed is shown when the test fails."""
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    return random.Random(seed)


@pytest.fixture(scope="session")
def byte_level_tokenizer():
    """Byte-level BPE, as Qwen and tiny-chat have it."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>", *MARKS]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


@pytest.fixture(scope="session")
def byte_fallback_tokenizer():
    """Byte-fallback BPE over ▁, as Llama 2's tokenizer.json has it."""
    return train_byte_fallback(strips=True)


@pytest.fixture(scope="session")
def unstripped_tokenizer():
    """Byte-fallback BPE over ▁ without a leading space, as Gemma's tokenizer.json has it."""
    return train_byte_fallback(strips=False)


def train_byte_fallback(*, strips: bool):
    import tokenizers
    from tokenizers import decoders, models, normalizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    prepend = [normalizers.Prepend("▁")] if strips else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strips else []))
    special = ["<unk>", "<s>", "</s>", *MARKS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False, limit_alphabet=60)
    tokenizer.train_from_iterator(corpus(), trainer)
    return demote_bytes(tokenizer)


def demote_bytes(tokenizer):
    """Byte tokens belong to the vocabulary but are not special: rebuild without their added-token entries."""
    import tokenizers

    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [row for row in data["added_tokens"] if not row["content"].startswith("<0x")]
    return tokenizers.Tokenizer.from_str(json.dumps(data))


@pytest.fixture
def json_folder(tmp_path):
    """A folder with a tokenizer.json and the tokenizer_config.json that names its special tokens."""

    def make(tokenizer, **settings):
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        config = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": list(MARKS)}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | settings))
        return tmp_path

    return make
