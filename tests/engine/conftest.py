"""Puts the helpers of this folder (engine_fakes, engine_workloads) where its tests can import them."""

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def rng() -> random.Random:
    """A generator whose fresh seed is shown when the test fails."""
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    return random.Random(seed)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A byte-level tokenizer with a few merges."""
    from engine_fakes import write_tokenizer

    from lmcourse.text.tokenizer import Tokenizer

    return Tokenizer.from_folder(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
