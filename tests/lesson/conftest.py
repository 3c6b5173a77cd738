"""The bundled model on both sides, once for all tests of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmcourse.baseline import AutoModelForCausalLM
from lmcourse.bench import parity_prompt_ids
from lmcourse.bundled import model_path


@pytest.fixture(scope="module")
def folder() -> Path:
    return model_path("tiny-chat")


@pytest.fixture(scope="module")
def transformers_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[list[int]]:
    return parity_prompt_ids(folder)
