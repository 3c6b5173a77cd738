"""Families that see, through the pipeline, the server and the page's answers: all three say the same."""

from __future__ import annotations

import base64

import numpy as np
import openai
import pytest
from PIL import Image

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.models.tiny_models import write_tiny_model
from lmcourse.serve.app import make_app
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings
from lmcourse.serve.web import Answers, Settings

SEEING = ("InternLM-XComposer", "InternLM-XComposer (2)", "QWen-VL", "DeepSeek-VL", "DeepSeek-VL (two towers)")


@pytest.mark.parametrize("family", SEEING)
def test_server_and_page_say_what_the_pipeline_says(family, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    write_tiny_model(family, tmp_path / "tiny")
    picture = Image.fromarray(np.random.default_rng().integers(0, 256, (30, 50, 3), dtype=np.uint8))
    file = tmp_path / "uploads" / "seen.png"
    file.parent.mkdir()
    picture.save(file)
    url = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    config = TurbomindEngineConfig(session_len=400, max_batch_size=4, cache_max_entry_count=40)
    with pipeline(tmp_path / "tiny", backend_config=config) as pipe:
        wanted = pipe(("look", picture), max_new_tokens=5)
        parts = [{"type": "file", "file": {"path": str(file)}}, {"type": "text", "text": "look"}]
        *_, (shown, _) = Answers(pipe).answer([{"role": "user", "content": parts}], Settings(0, 1, 5), "tab")
        assert shown == wanted.text
        with (
            running(make_app(pipe, ServerSettings(grace_seconds=2))) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        ):
            said = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "look"}]
            answer = client.chat.completions.create(
                model=pipe.name, messages=[{"role": "user", "content": said}], max_tokens=5, temperature=0
            )
            assert answer.choices[0].message.content == wanted.text
            assert answer.usage.prompt_tokens == wanted.input_token_len
