"""Pictures through the server: the same answers as in the pipeline, and hostile ones refused while it stays up."""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
import zlib

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from lmcourse import GenerationConfig, TurbomindEngineConfig, pipeline
from lmcourse.bundled import dummy_path
from lmcourse.client import APIClient, Client
from lmcourse.errors import PromptError
from lmcourse.serve.app import make_app
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings

FEW = {"max_new_tokens": 5, "ignore_eos": True}
SAME = {"max_tokens": 5, "temperature": 0, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LLaVA-1.6 of drawn weights, small."""
    made = tmp_path_factory.mktemp("llava") / "small-llava"
    shutil.copytree(dummy_path("dummy:llava-1.6-7b"), made)
    config = json.loads((made / "config.json").read_text())
    config["text_config"] |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 512}
    config["text_config"] |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config["vision_config"] |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    config["vision_config"] |= {"num_attention_heads": 4, "image_size": 56, "patch_size": 14}
    config["image_grid_pinpoints"] = [[56, 112], [112, 56], [112, 112]]
    config |= {"image_token_index": 400, "torch_dtype": "float32"}
    (made / "config.json").write_text(json.dumps(config))
    (made / "byte_tokenizer.json").write_text('{"vocab_size": 512, "first_byte_id": 3}')
    (made / "random_weights.json").write_text('{"seed": 0, "std": 0.2}')
    return made


@pytest.fixture(scope="module")
def pipe(folder):
    config = TurbomindEngineConfig(session_len=400, max_batch_size=8, cache_max_entry_count=60)
    with pipeline(folder, backend_config=config) as made:
        yield made


@pytest.fixture(scope="module")
def server(pipe):
    with running(make_app(pipe, ServerSettings(grace_seconds=2))) as made:
        yield made


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as made:
        yield made


def draw(width: int = 90, height: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng().integers(0, 256, (height, width, 3), dtype=np.uint8))


def to_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def message(*parts: str) -> dict:
    """Texts, and URLs of pictures."""
    kinds = {
        True: lambda u: {"type": "image_url", "image_url": {"url": u}},
        False: lambda t: {"type": "text", "text": t},
    }
    return {"role": "user", "content": [kinds[":" in part](part) for part in parts]}


def test_server_and_both_clients_say_what_the_pipeline_says(pipe, server) -> None:
    one, two = draw(), draw(30, 200)
    wanted = pipe([("look", one), ("look", [one, two]), "just text"], **FEW)
    assert wanted[1].input_token_len > wanted[0].input_token_len + 16
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for pictures, response in (([one], wanted[0]), ([one, two], wanted[1])):
            said = message("look", *map(to_url, pictures))
            answer = client.chat.completions.create(model=pipe.name, messages=[said], **SAME)
            assert answer.choices[0].message.content == response.text
            assert answer.usage.prompt_tokens == response.input_token_len
    with Client(server.url) as client:
        found = client([("look", one), ("look", [one, two]), "just text"], **FEW)
        assert [response.text for response in found] == [response.text for response in wanted]
    api = APIClient(server.url)
    body = {"messages": [message("look", to_url(one))], "temperature": 0, "max_tokens": 5, "ignore_eos": True}
    (answer,) = api.chat_completions_v1(pipe.name, **body)
    assert answer["choices"][0]["message"]["content"] == wanted[0].text


def test_pictures_anywhere_in_a_conversation(pipe, server, tmp_path) -> None:
    path = tmp_path / "cat.jpeg"
    draw().save(path)
    gen = GenerationConfig(max_new_tokens=3, ignore_eos=True)
    with Client(server.url) as client:
        for talker in (pipe, client):
            session = talker.chat("hello", gen_config=gen)
            session = talker.chat(("what is this", path), session, gen)
            session = talker.chat("and what else", session, gen)
            session = talker.chat(("and this", [draw(20, 20), path]), session, gen)
            assert len(session.history) == 4
            assert session.response.input_token_len > 3 * 16
    told = pipe(
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}, message("look", to_url(draw()))]
    )
    assert told.finish_reason


def bomb() -> str:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return "data:image/png;base64," + base64.b64encode(content + chunk(b"IEND", b"")).decode()


@pytest.mark.parametrize(
    ("urls", "what"),
    [
        ([bomb()], "too large"),
        ([to_url(draw())[: 22 + 400]], "damaged"),
        (["data:image/png;base64,!!!!"], "base64"),
        (["data:text/plain;base64,aGVsbG8="], "no picture"),
        (["file:///etc/hostname"], "may not be opened"),
        (["/etc/hostname.png:"], "may not be opened"),
        (["http://127.0.0.1:1/x.png"], "may not be fetched"),
        (["http://169.254.169.254/latest/meta-data"], "may not be fetched"),
        ([to_url(draw(8, 8))] * 100, "100 images"),
        ([to_url(draw(8, 8)), "data:image/png;base64,aGVsbG8="], "image 1"),
    ],
    ids=range(10),
)
def test_hostile_pictures_are_refused_and_the_server_stays_up(pipe, http, urls, what) -> None:
    answer = http.post("/v1/chat/completions", json={"model": pipe.name, "messages": [message("look", *urls)]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert what in error["message"]
    assert error["param"] == "messages"
    if what == "100 images":
        assert error["code"] == "context_length_exceeded"
        assert "image tokens" in error["message"]
        assert "399 tokens" in error["message"]
    body = {"model": pipe.name, "messages": [message("look", to_url(draw()))], "max_tokens": 2}
    assert http.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"url": ""}},
        {"type": "image_url", "image_url": {"url": 3}},
        {"type": "image_url", "image_url": {"url": "data:", "size": 3}},
        {"type": "image", "image": "/etc/hostname"},
        {"type": "video_url", "video_url": {"url": "x"}},
    ],
)
def test_parts_that_are_none_are_refused(pipe, http, part) -> None:
    body = {"model": pipe.name, "messages": [{"role": "user", "content": [part]}]}
    assert http.post("/v1/chat/completions", json=body).status_code == 400


def test_text_too_long_behind_a_picture_names_the_image_tokens(pipe) -> None:
    with pytest.raises(PromptError, match=r"of them of 1 image") as caught:
        pipe(("x" * 400, draw()))
    assert "at most 399 tokens" in str(caught.value)
    with pytest.raises(PromptError, match="prompt 1, image 1"):
        pipe(["hello", ("look", [draw(), b"no picture"])])


def test_model_without_eyes_says_so() -> None:
    with pipeline("tiny-chat", backend_config=TurbomindEngineConfig(session_len=64)) as blind:
        with pytest.raises(PromptError, match="takes no images"):
            blind(("look", draw()))
        assert blind(["hi", "there"], max_new_tokens=1)
