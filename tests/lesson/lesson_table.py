"""Every command and script of the original lesson, one row each, and what has become of it.

run        works with only the package's name changed (lmdeploy → lmcourse; transformers → lmcourse.baseline)
changed    needs a change that is told with its reason and shown as a difference; gradio_llava is the only one
explained  belongs to a machine or platform that is not ours; a lesson's cell covers it

Bundled models stand in for paths, loopback for remote hosts. `cut` shortens what would only take long; `make soak` runs
those rows uncut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

CHAT_ANSWER = r"[\u4e00-\u9fff]{3}"
TWO_RESPONSES = r"(?s)^\[Response\(text=.*Response\(text=.*finish_reason='stop'"
WORDS_PER_SECOND = r"(?s)(Warm up\.\.\..*){5}Speed: \d+\.\d{3} words/s"
TWO_TURNS = r"(?s)\[INPUT\] hello.*\[OUTPUT\] \S.*\[INPUT\] please.*\[OUTPUT\] \S"
JOKE = "给我讲个笑话\n\nexit\n\n"


@dataclass(frozen=True)
class Row:
    """`lesson` is the command as the lesson has it, or the name of a script in scripts/."""

    part: str
    lesson: str
    kind: Literal["run", "changed", "explained"] = "run"
    typed: str = ""
    says: str = ""  # a pattern in what it prints, or in the page it serves
    server: str = ""  # name of the row whose service must be running
    name: str = ""
    cut: dict[str, str] = field(default_factory=dict)
    why: str = ""
    cell: tuple[str, str] = ("", "")  # lesson, pattern in one of its cells

    @property
    def is_script(self) -> bool:
        return self.lesson.startswith("python ")

    @property
    def is_lmdeploy(self) -> bool:
        return self.lesson.startswith("lmdeploy ")

    @property
    def is_service(self) -> bool:
        return (
            self.lesson.startswith(("lmdeploy serve api_server ", "lmdeploy serve gradio "))
            and self.lesson[-2:] != "-h"
        )

    @property
    def here(self) -> str:
        """The command with only the package's name changed."""
        return self.lesson.replace("lmdeploy", "lmcourse", 1)


def explained(part: str, lesson: str, where: str, pattern: str, why: str) -> Row:
    return Row(part, lesson, "explained", why=why, cell=(where, pattern))


MODEL, FOUR_BIT = "~/internlm2-chat-1_8b", "~/internlm2-chat-1_8b-4bit"
SHARE = "~/share/new_models/Shanghai_AI_Laboratory"
SERVE = (
    f"lmdeploy serve api_server {MODEL} --model-format hf --quant-policy 0 --server-name 0.0.0.0 "
    "--server-port 23333 --tp 1"
)
SERVE_FOUR_BIT = (
    f"lmdeploy serve api_server {FOUR_BIT} --model-format awq --cache-max-entry-count 0.4 --quant-policy 0 "
    "--server-name 0.0.0.0 --server-port 23333 --tp 1"
)
GRADIO = "lmdeploy serve gradio http://localhost:23333 --server-name 0.0.0.0 --server-port 6006"
CLIENT = "lmdeploy serve api_client http://localhost:23333"
AUTO_AWQ = (
    f"lmdeploy lite auto_awq {MODEL} --calib-dataset 'ptb' --calib-samples 128 --calib-seqlen 1024 --w-bits 4 "
    f"--w-group-size 128 --work-dir {FOUR_BIT}"
)
TUNNEL = "ssh -CNg -L {port}:127.0.0.1:{port} root@ssh.intern-ai.org.cn -p YOUR_SSH_PORT"
REMOTE = "leads to the classroom's machines; JupyterLab's proxy needs no tunnel"

ENVIRONMENT = (
    explained(
        "environment",
        "studio-conda -t lmdeploy -o pytorch-2.1.2",
        "01",
        r"studio-conda -t lmdeploy",
        "a tool of that platform",
    ),
    explained(
        "environment",
        "conda create -n lmdeploy -y python=3.10",
        "01",
        r"conda create -n lmdeploy",
        "make lab sets an environment up",
    ),
    explained("environment", "conda activate lmdeploy", "01", r"conda activate lmdeploy", "the terminal's environment"),
    explained(
        "environment",
        "pip install lmdeploy[all]==0.3.0",
        "01",
        r"pip install lmdeploy\[all\]==0\.3\.0",
        "make lab installs",
    ),
)

MODELS = (
    Row("models", f"ls {SHARE}/", says=r"internlm2-chat-1_8b"),
    Row("models", "cd ~"),
    Row("models", f"ln -s {SHARE}/internlm2-chat-1_8b ~/"),
    Row("models", f"cp -r {SHARE}/internlm2-chat-1_8b ~/copied", says=r"^$"),
    Row("models", "ls", says=r"(?m)^internlm2-chat-1_8b$"),
    explained(
        "models",
        "curl -s …/git-lfs/script.deb.sh | bash",
        "01",
        r"curl -s .*script\.deb\.sh",
        "git-lfs' package source",
    ),
    explained("models", "apt update", "01", r"apt update", "a system's package list"),
    explained("models", "apt install git-lfs", "01", r"apt install git-lfs", "a system's package"),
    explained("models", "git lfs install --system", "01", r"git lfs install --system", "a system's setting"),
    explained(
        "models", "sudo apt install git-lfs", "01", r"sudo apt install git-lfs", "the same for those who are not root"
    ),
    explained(
        "models",
        "git clone https://code.openxlab.org.cn/OpenLMLab/internlm2-chat-1.8b.git",
        "01",
        r"git clone \S*internlm2-chat-1\.8b\.git",
        "a download of 4 GB from a hub",
    ),
    Row("models", "mv ~/internlm2-chat-1.8b ~/internlm2-chat-1_8b-moved"),
    Row("models", "touch ~/pipeline_transformer.py"),
)

CHAT = (
    Row("chat", "python ~/pipeline_transformer.py", says=TWO_TURNS),
    Row("chat", f"lmdeploy chat {MODEL}", typed=JOKE, says=CHAT_ANSWER),
    Row("chat", "lmdeploy chat -h", says="--cache-max-entry-count"),
)

QUANTISATION = (
    Row("lite", f"lmdeploy chat {MODEL} --cache-max-entry-count 0.5", typed=JOKE, says=CHAT_ANSWER),
    Row("lite", f"lmdeploy chat {MODEL} --cache-max-entry-count 0.01", typed=JOKE, says=CHAT_ANSWER),
    explained(
        "lite",
        "pip install einops==0.7.0",
        "04",
        r"`einops`, which it asked you to install",
        "is installed with lmcourse",
    ),
    Row(
        "lite",
        AUTO_AWQ,
        says=r"weights became",
        name="auto_awq",
        cut={"--calib-samples 128": "--calib-samples 4", "--calib-seqlen 1024": "--calib-seqlen 64"},
    ),
    Row("lite", f"lmdeploy chat {FOUR_BIT} --model-format awq", typed=JOKE, says=CHAT_ANSWER),
    Row(
        "lite",
        f"lmdeploy chat {FOUR_BIT} --model-format awq --cache-max-entry-count 0.01",
        typed=JOKE,
        says=CHAT_ANSWER,
    ),
    Row("lite", "lmdeploy lite -h", says="auto_awq"),
)

SERVING = (
    Row("serve", SERVE, name="server", says=r"/v1/chat/completions"),  # the page at http://{host}:23333
    Row("serve", "lmdeploy serve api_server -h", says="--server-port"),
    explained("serve", TUNNEL.format(port=23333), "05", r"ssh -CNg -L 23333:127\.0\.0\.1:23333", REMOTE),
    Row("serve", CLIENT, server="server", typed="你好\n\nexit\n\n", says=CHAT_ANSWER),
    Row("serve", GRADIO, server="server", name="page", says="gradio"),
    explained("serve", TUNNEL.format(port=6006), "05", r"`serve gradio`.*6006|6006 \|", REMOTE),
    Row("serve", "touch ~/pipeline.py"),
    Row("serve", "python ~/pipeline.py", says=TWO_RESPONSES),
    Row("serve", "touch ~/pipeline_kv.py"),
    Row("serve", "python ~/pipeline_kv.py", says=TWO_RESPONSES),
)

BENCHMARK = (
    Row("benchmark", "python benchmark_transformer.py", says=WORDS_PER_SECOND),
    Row("benchmark", "python benchmark_lmdeploy.py", says=WORDS_PER_SECOND),
)

LLAVA_FOLDER = "/share/new_models/liuhaotian/llava-v1.6-vicuna-7b"
TIGER = "https://raw.githubusercontent.com/open-mmlab/mmdeploy/main/tests/data/tiger.jpeg"
VISION = (
    explained(
        "llava",
        "pip install git+https://github.com/haotian-liu/LLaVA.git@4e2277a060da264c4f21b364c867cc622c945874",
        "09",
        r"pip install git\+https://github\.com/haotian-liu/LLaVA\.git",
        "the tower is part of lmcourse",
    ),
    Row("llava", "touch ~/pipeline_llava.py"),
    Row("llava", "python ~/pipeline_llava.py", says=r"(?s)^Response\(text='?.{8,}finish_reason='stop'"),
    Row("llava", "touch ~/gradio_llava.py"),
    Row(
        "llava",
        "python ~/gradio_llava.py",
        "changed",
        why="gradio 6 refuses pairs in a Chatbot: what the function returns becomes two messages",
    ),
    explained("llava", TUNNEL.format(port=7860), "05", r"7860 \|", REMOTE),
)

HOMEWORK = (
    Row(
        "homework 1",
        f"lmdeploy chat {FOUR_BIT} --model-format awq --cache-max-entry-count 0.4",
        typed=JOKE,
        says=CHAT_ANSWER,
    ),
    Row("homework 2", SERVE_FOUR_BIT, name="server of 4 bits", says=r"/v1/chat/completions"),
    Row("homework 2", CLIENT, server="server of 4 bits", typed="你好\n\nexit\n\n", says=CHAT_ANSWER),
    Row("homework 2", GRADIO, server="server of 4 bits", name="page over 4 bits", says="gradio"),
    Row("homework 3", "python ~/pipeline_kv_4bit.py", says=TWO_RESPONSES),  # pipeline_kv.py as homework 3 fills it
)

ROWS = (*ENVIRONMENT, *MODELS, *CHAT, *QUANTISATION, *SERVING, *VISION, *BENCHMARK, *HOMEWORK)
