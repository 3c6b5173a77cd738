"""Peers are found by name, served from another environment, measured over HTTP, and ended with everything of theirs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from lmcourse.bench import Peer, find_peers, serve_peer
from lmcourse.bench.serving import Load, measure_server
from lmcourse.errors import ConfigError, MachineError

# A python of another environment: it is called as theirs are, notes its words, and serves or fails.
SERVES = """
import http.server, json, pathlib, subprocess, sys
words = sys.argv[1:]
pathlib.Path(__file__).with_name("words.json").write_text(json.dumps(words))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(__file__).with_name("child").write_text(str(child.pid))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply("application/json", json.dumps({"data": [{"id": "peer"}]}))
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pieces = [{"choices": [{"index": 0, "delta": {"content": "x"}}]}] * body["max_tokens"]
        usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": body["max_tokens"]}}
        events = [json.dumps(piece) for piece in [*pieces, usage]] + ["[DONE]"]
        self.reply("text/event-stream", "".join(f"data: {event}\\n\\n" for event in events))
    def reply(self, kind, text):
        self.send_response(200); self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text))); self.end_headers(); self.wfile.write(text.encode())
    def log_message(self, *_): pass
port = next(int(b) for a, b in zip(words, words[1:]) if a in ("--server-port", "--port"))
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""
FAILS = "import sys; sys.exit('CUDA is not what it was')"


@pytest.fixture
def make_python(tmp_path: Path):
    def make(code: str) -> str:
        (tmp_path / "server.py").write_text(code)
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "server.py"}" "$@"\n')
        program.chmod(0o755)
        return str(program)

    return make


def is_alive(process_id: int) -> bool:
    stat = Path(f"/proc/{process_id}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_peers_are_read_from_the_environment(make_python) -> None:
    program = make_python(SERVES)
    assert find_peers({}) == find_peers({"LMCOURSE_PEERS": " , "}) == []
    stated = f"vllm={program}, another = http://127.0.0.1:8000/"
    assert find_peers({"LMCOURSE_PEERS": stated}) == [
        Peer("vllm", program),
        Peer("another", "http://127.0.0.1:8000/"),
    ]


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("vllm", "NAME=PLACE"),
        ("=http://127.0.0.1:1", "NAME=PLACE"),
        ("sglang=/usr/bin/env", "nobody knows how to start"),
        ("vllm=/nowhere/python", "is not there"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused(stated: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_peers({"LMCOURSE_PEERS": stated})


@pytest.mark.parametrize("name", ["lmdeploy", "vllm"])
def test_a_peer_is_served_measured_and_ended_with_its_children(make_python, tmp_path: Path, name: str) -> None:
    peer = Peer(name, make_python(SERVES))
    load = Load(num_requests=3, prompt_words=(2, 2), output_tokens=(4, 4))
    with serve_peer(peer, "a model folder", start_seconds=60) as url:
        assert url.startswith("http://127.0.0.1:")
        result = measure_server(url, load)
        child = int((tmp_path / "child").read_text())
        assert is_alive(child)
    assert (result.model, len(result.answered)) == ("peer", 3)
    assert result.to_json()["output_tokens_per_second"] > 0
    assert '"a model folder"' in (tmp_path / "words.json").read_text()
    assert name in (tmp_path / "words.json").read_text()
    for _ in range(100):
        if not is_alive(child):
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        pytest.fail("a child of the peer's server lives on")


def test_a_peer_that_fails_says_why(make_python) -> None:
    peer = Peer("vllm", make_python(FAILS))
    with pytest.raises(MachineError, match="ended with status 1") as failed, serve_peer(peer, "x", start_seconds=60):
        pass
    assert "CUDA is not what it was" in str(failed.value)


def test_a_peer_that_runs_already_is_left_alone() -> None:
    with serve_peer(Peer("any", "http://127.0.0.1:9/"), "x") as url:
        assert url == "http://127.0.0.1:9"
