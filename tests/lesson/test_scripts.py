"""The lesson's scripts and its chat command, with only the package's name changed, as a reader would run them.

Each runs in a process of its own in a home folder where ~/internlm2-chat-1_8b leads to the bundled model.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmcourse.doctor import link_model

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    link_model(home)
    return home


def run(home: Path, *words: str, stdin: str = "") -> str:
    """Standard output of a Python command that must succeed without a complaint."""
    environment = {**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "error"}
    environment.pop("LMCOURSE_MODEL", None)
    done = subprocess.run(
        [sys.executable, *words], cwd=home, env=environment, input=stdin, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_pipeline_transformer_talks_twice(home):
    out = run(home, str(SCRIPTS / "pipeline_transformer.py"))
    assert re.findall(r"^\[INPUT\] (.*)$", out, re.M) == [
        "hello",
        "please provide three suggestions about time management",
    ]
    answers = re.findall(r"^\[OUTPUT\] (.*)$", out, re.M)
    assert len(answers) == 2
    assert all(answer.strip() for answer in answers)
    assert "no code of the checkpoint is run" in out


@pytest.mark.parametrize("name", ["pipeline.py", "pipeline_kv.py"])
def test_pipeline_answers_both_prompts(home, name):
    out = run(home, str(SCRIPTS / name))
    assert out.startswith("[Response(text=")
    assert out.count("Response(text=") == 2
    assert out.count("finish_reason='stop'") == 2


@pytest.mark.parametrize("name", ["benchmark_transformer.py", "benchmark_lmdeploy.py"])
def test_benchmark_prints_a_speed(home, name):
    out = run(home, str(SCRIPTS / name))
    assert out.count("Warm up...[") == 5
    assert float(re.search(r"^Speed: ([\d.]+) words/s$", out, re.M).group(1)) > 0


def test_chat_on_the_lessons_path_answers_and_leaves(home):
    out = run(home, "-m", "lmcourse", "chat", "~/internlm2-chat-1_8b", stdin="给我讲个笑话\n\nexit\n\n")
    assert "double enter to end input >>>" in out
    assert len(re.findall(r"[\u4e00-\u9fff]", out)) > 5


def test_chat_ends_politely_with_its_input(home):
    out = run(home, "-m", "lmcourse", "chat", "~/internlm2-chat-1_8b", stdin="hello\n\n")
    assert "Traceback" not in out
