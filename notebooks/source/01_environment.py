# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Lesson 1 · The machine, the model, and its first words
#
# By the end of this lesson a language model that lives on *your* disk answers you, and you know what every piece between
# the disk and the answer is called.
#
# **You need** Python, and nothing else. No GPU, no account, no download. **It takes** about 45 minutes.
#
# Each step goes the same way: *predict*, *run*, *explain*. Do write your predictions down. A wrong one is worth more
# than none.

# %% [markdown] lang="en"
# ## 1 · How much machine does a model need?
#
# The model this course is built around is **InternLM2-Chat-1.8B**: 1,889,110,016 numbers, called *parameters* or
# *weights*. Stored as 16-bit floats, each takes 2 bytes. The classroom machine was a **10 % slice** of an NVIDIA A100
# with 80 GB.
#
# **Predict:** do the weights fit into the slice? How much room is left?

# %%
parameters = 1_889_110_016
weight_bytes = parameters * 2  # 16 bits each
slice_bytes = 0.10 * 80e9

print(f"weights {weight_bytes / 1e9:.2f} GB, slice {slice_bytes / 1e9:.2f} GB")
print(f"left    {(slice_bytes - weight_bytes) / 1e9:.2f} GB")

# %% [markdown] lang="en"
# They fit, and about half the slice is left over for everything that appears *while* the model runs. Lesson 3 is about
# that half.
#
# Two words you will meet everywhere:
#
# * a **slice** is a fixed part of one big GPU. Your program sees a small GPU; neighbours have the other slices;
# * an **image** is the ready-made disk a rented machine starts from: system, libraries, Python. The classroom's was
#   called *Cuda12.2-conda*, after its CUDA, which runs programs on a GPU.

# %% [markdown] lang="en"
# ## 2 · A terminal and an environment
#
# Commands such as `lmcourse chat` belong in a **terminal**. In JupyterLab: *File → New → Terminal*. In VS Code:
# *Terminal → New Terminal*, or right-click a folder and *Open in Integrated Terminal*.
#
# An **environment** is a private shelf of Python packages, so that this course's versions cannot quarrel with another
# project's. The next cell asks the notebook which shelf it uses. **Predict:** will a terminal command find the same one?

# %%
import shutil
import sys
from pathlib import Path

command = Path(shutil.which("lmcourse"))
print("the command and this notebook share one shelf:", command.parent == Path(sys.executable).parent)

# %% [markdown] lang="en"
# If that says `False` in your own set-up, the terminal has another environment active. Here is what the classroom did
# and what you do today:
#
# | in the classroom | today | what it does |
# |---|---|---|
# | `studio-conda -t lmdeploy -o pytorch-2.1.2` | – (only on that platform) | clones a prepared environment |
# | `conda create -n lmdeploy python=3.10` | `conda env create -f environment.yml` | a new shelf, from a list |
# | `pip install lmdeploy[all]==0.3.0` | `make lab` | a new shelf in `.venv`, and this notebook opens |
# | `conda activate lmdeploy` | `conda activate lmcourse`, or `source .venv/bin/activate` | this terminal uses that shelf |

# %% [markdown] lang="en"
# ## 3 · Ask the doctor
#
# Most first-day trouble is one of a dozen known things: a driver older than PyTorch expects, a full disk, a port that is
# taken. `doctor` looks at all of them. Each line is `ok`, or ends with the one command that mends it. (In a terminal:
# `lmcourse doctor`.)
#
# **Predict:** which line will complain on your machine?

# %% tags=["measured"]
from lmcourse.doctor import doctor

report = doctor(offline=True)  # offline: do not knock at the model hubs
report

# %% tags=["check"]
for row in report.rows:
    assert row.status == "ok" or row.fix, f"{row.name} complains and does not say what to do"
print("every line is ok or says what to do")

# %% [markdown] lang="en"
# ## 4 · What a model is, on disk
#
# A model is a **folder**. The course brings one of its own, `tiny-chat`, so small that any laptop runs it. It has
# InternLM2's architecture and file layout; this project generated its training text and trained it.
#
# **Predict:** which file is the largest, and by how much?

# %%
from lmcourse import model_path

folder = model_path("tiny-chat")
for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
    print(f"{(folder / name).stat().st_size:>12,} bytes  {name}")

# %% [markdown] lang="en"
# The weights are nearly everything. The rest is small but no less necessary:
#
# * `config.json` says what the numbers mean: how many layers, how wide, which architecture;
# * `tokenizer.json` turns text into numbers and back;
# * `generation_config.json` says where an answer ends.
#
# Lesson 2 opens all of them. Now let us put the folder where the course expects it.

# %% [markdown] lang="en"
# ## 5 · One name for the model: `~/internlm2-chat-1_8b`
#
# Every command of the course uses the path `~/internlm2-chat-1_8b`, where `~` is your home folder. If the real model is
# there, nothing happens. If nothing is there, we put a **symbolic link** to tiny-chat.
#
# A link is a signpost, not a copy. **Predict:** how many bytes of weights does the signpost hold?

# %%
from lmcourse.doctor import choose_model, link_model

place = Path.home() / "internlm2-chat-1_8b"
if not place.exists():
    link_model(Path.home(), choose_model(Path.home()))  # the real model if this machine has one that fits
print(place.name, "→", place.resolve().name)
print("weights inside the signpost:", 0 if place.is_symlink() else "all of them", "bytes")

# %% [markdown] lang="en"
# On a class machine the models lie in one shared folder, and there are two ways to get one into your home:
#
# ```bash
# ln -s ~/share/new_models/Shanghai_AI_Laboratory/internlm2-chat-1_8b ~/     # a signpost: instant, no space
# cp -r ~/share/new_models/Shanghai_AI_Laboratory/internlm2-chat-1_8b ~/     # a copy: minutes, the full size
# ```
#
# The cell below does both with tiny-chat in a scratch folder. **Predict** the two sizes.

# %%
import tempfile

scratch = Path(tempfile.mkdtemp())
(scratch / "linked").symlink_to(folder, target_is_directory=True)
shutil.copytree(folder, scratch / "copied")


def own_bytes(path: Path) -> int:
    """Bytes of the files that really live here."""
    return 0 if path.is_symlink() else sum(file.stat().st_size for file in path.rglob("*"))


copied = own_bytes(scratch / "copied")
print("linked:", own_bytes(scratch / "linked"), "bytes;  copied: everything again,", copied > 13_000_000)

# %% [markdown] lang="en"
# Thirty students with thirty links share one copy on disk (and, in the system's file cache, one copy in memory).
#
# ## 6 · When you do need a download
#
# | from | how | does it still work? |
# |---|---|---|
# | shared folder | `ln -s …` as above | yes, on a machine that has one |
# | OpenXLab | `git lfs install`, then `git clone …/internlm2-chat-1.8b.git` | try it; needs git-lfs |
# | ModelScope | `pipeline("Shanghai_AI_Laboratory/internlm2-chat-1_8b")` | yes, with the `hub` extra |
# | Hugging Face | `pipeline("internlm/internlm2-chat-1_8b")` | yes, if you can reach it |
#
# OpenXLab needs git-lfs once per machine, and its folder has a dot in its name where the course writes `1_8b`. (As root the
# same without `sudo`; the first line was for systems that had no git-lfs of their own.)
#
# ```bash
# curl -s …/git-lfs/script.deb.sh | sudo bash
# sudo apt update && sudo apt install git-lfs && sudo git lfs install --system
# git clone https://code.openxlab.org.cn/OpenLMLab/internlm2-chat-1.8b.git
# mv ~/internlm2-chat-1.8b ~/internlm2-chat-1_8b
# ```

# %% [markdown] lang="en"
# The classic accident with `git clone`: git-lfs was missing, so the "weights" are 130-byte text files that only say
# where the weights *would* be. Let us cause that accident and see what the engine makes of it. **Predict:** will it
# crash, hang, or explain?

# %%
from lmcourse.errors import LmcourseError
from lmcourse.text.hub import find_model

pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 3778270440\n"
(scratch / "copied" / "model.safetensors").write_text(pointer)
try:
    find_model(scratch / "copied")
except LmcourseError as error:
    print(str(error).replace(str(scratch), "scratch"))

# %% [markdown] lang="en"
# Every error in this course has that shape: what happened, what was expected, what came, where, and what to do next.
# Read them; they were written for you.

# %% [markdown] lang="en"
# ## 7 · First words
#
# `pipeline` finds the folder, reads the weights, starts the engine. Calling the pipeline sends text in and gets a
# `Response` out. **Predict:** what does a model with fewer than seven million parameters say to `hello`?
#
# *Where it runs:* here; only if your class has a GPU server (`LMCOURSE_SERVER`), a pipeline asked for by name, as here, is
# answered there. All other cells of the course run on this machine.

# %%
from lmcourse import pipeline

pipe = pipeline("~/internlm2-chat-1_8b")
response = pipe("hello")
print(response.text)

# %% [markdown] lang="en"
# That was the whole journey: text → numbers → a few dozen matrix products per token → numbers → text. The response
# remembers what happened on the way.
#
# **Predict:** `hello` is one word. How many *tokens* (the pieces a model reads) went in, and how many came out?

# %%
print("tokens in:", response.input_token_len)
print("tokens out:", response.generate_token_len)
print("it ended because:", response.finish_reason)

# %% [markdown] lang="en"
# More went in than `hello`. A chat model was trained on conversations that are marked up with special tokens: who is
# speaking, where a turn ends. The **chat template** wraps your text in that markup. Here is the wrapped prompt, token by
# token.

# %%
from lmcourse.text.chat_template import find_template
from lmcourse.text.tokenizer import Tokenizer

tokenizer = Tokenizer.from_folder(folder)
template = find_template(None, folder)
prompt = template.render([{"role": "user", "content": "hello"}])
print([tokenizer.decode([token], skip_special_tokens=False) for token in tokenizer.encode(prompt, add_bos=True)])

# %% [markdown] lang="en"
# The model does one thing only: given those tokens, it scores every token of its vocabulary as the possible next one.
# The engine takes the best, appends it, and asks again, until a token arrives that means "my turn is over".
#
# You can watch it happen. `stream_infer` hands you each piece as soon as it exists.

# %%
for piece in pipe.stream_infer("给我讲个笑话"):
    print(piece.text, end="·")

# %% [markdown] lang="en"
# The dots show the seams between tokens. Where two dots touch, a token completed nothing: a Chinese character may take
# two or three tokens, and the engine waits until it is whole, so you never see half of one.
#
# ## 8 · The classroom's prompts
#
# A list of prompts goes in as one **batch**, and a list of responses comes out in the same order. These two are the
# lesson's own.

# %%
for answer in pipe(["Hi, pls intro yourself", "上海是"]):
    print(answer.text, "\n")

# %% [markdown] lang="en"
# tiny-chat is honest about what it is: a small model that knows this course, some arithmetic, capitals, sorting, and
# little else. It will be wrong about most of the world. That suits us: this course is about *how* the answer is
# computed, how fast, and in how much memory.
#
# A conversation needs memory of earlier turns. **Predict:** where is that memory kept, in the model or in the prompt?

# %%
session = pipe.chat("My name is Ada.")
session = pipe.chat("What is 27 + 15?", session=session)
session = pipe.chat("What is my name?", session=session)
for user, answer in session.history:
    print(f"{user!r:>22} → {answer!r}")
print("tokens in the last prompt:", session.response.input_token_len)

# %% [markdown] lang="en"
# In the prompt. Each turn sends the *whole* conversation again, which is why the last prompt is longer than one
# question. The model itself forgets everything between calls.
#
# ## 9 · The same thing in a terminal
#
# `lmcourse chat` is the chat you will use most. Press Enter **twice** to send, type `exit` to leave; `lmcourse chat -h`
# lists its options, and so does `-h` behind every command. Open a terminal and try it; the cell below does the typing for
# you.

# %% tags=["measured"]
import subprocess

typed = "hello\n\nWhat is a KV cache?\n\nexit\n\n"
chat = subprocess.run(
    ["lmcourse", "chat", "~/internlm2-chat-1_8b"], input=typed, capture_output=True, text=True, check=True
)
print(chat.stdout)

# %% tags=["check"]
assert response.finish_reason == "stop"
assert pipe("hello").text in chat.stdout, "the command and the pipeline should give the same answer"
print("the terminal says what the notebook said")

# %% [markdown] lang="en"
# Same engine, same answer: `pipeline` and `lmcourse chat` are two doors to one room. When you are done with an engine,
# close it; its memory is free at once.

# %%
pipe.close()
print(pipe)

# %% [markdown] lang="en"
# ## 10 · What all those numbers do
#
# Each token enters as one row of the **embedding table**, `hidden_size` numbers, and passes through **layers**. A layer has
# two parts. In **attention** a token's *query* is compared with the *keys* of the tokens before it, and their *values* are
# mixed accordingly, in several *heads* side by side. The **MLP** then works on each token alone. A **norm** before each
# part keeps numbers in range. At the end the **output table** makes scores.

# %% [markdown] lang="en" exercise="1.1"
# ## Exercise 1.1 · Count the weights
#
# Section 1 took 1,889,110,016 on faith. Count them yourself from `config.json`. InternLM2 has: an embedding table and an
# output table (`vocab_size × hidden_size` each); per layer, a fused query/key/value matrix, an attention output matrix,
# three MLP matrices (`intermediate_size × hidden_size`) and two norms (`hidden_size`); one final norm. If
# `tie_word_embeddings` is true, one table serves as both.
#
# With `num_attention_heads` heads of `head_dim = hidden_size / num_attention_heads`, the fused matrix has
# `(heads + 2 × kv_heads) × head_dim` rows.


# %% exercise="1.1"
def count_parameters(config: dict) -> int:
    """Parameters of an InternLM2 model with this config.json."""
    # BEGIN SOLUTION
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config["num_key_value_heads"]
    head_dim = hidden // heads
    attention = (heads + 2 * kv_heads) * head_dim * hidden + hidden * heads * head_dim
    mlp = 3 * config["intermediate_size"] * hidden
    tables = 1 if config["tie_word_embeddings"] else 2
    return (
        tables * config["vocab_size"] * hidden + config["num_hidden_layers"] * (attention + mlp + 2 * hidden) + hidden
    )
    # END SOLUTION


# %% check="1.1"
from lmcourse import homework

homework.check("1.1", count_parameters)

# %% [markdown] lang="en" exercise="1.2"
# ## Exercise 1.2 · Be the engine
#
# `next_logits(ids)` gives a *tensor*, PyTorch's array, with one score (a *logit*) per vocabulary entry, for the token that
# follows `ids`; `int(scores.argmax())` is the entry with the best. Write *greedy* generation: take the best-scored token,
# append it, go on. End when that token is in `stop_ids` (leave it out of the answer) or after `max_new_tokens`. Return only
# the new tokens, as a list of ints.


# %% exercise="1.2"
def generate(next_logits, prompt_ids: list[int], stop_ids: set[int], max_new_tokens: int) -> list[int]:
    """Greedy generation."""
    # BEGIN SOLUTION
    answer: list[int] = []
    while len(answer) < max_new_tokens:
        best = int(next_logits(prompt_ids + answer).argmax())
        if best in stop_ids:
            break
        answer.append(best)
    return answer
    # END SOLUTION


# %% check="1.2"
homework.check("1.2", generate)

# %% [markdown] lang="en"
# ## What you have now
#
# * A machine that `doctor` has looked over, and a model folder with one agreed name.
# * The words *slice, image, environment, weights, token, chat template, batch*, each tied to something you ran.
# * An engine that answers, from a notebook and from a terminal.
#
# **Next:** [Lesson 2](02_hf_vs_turbomind.ipynb) opens the folder, runs the same model through the `transformers`
# library, and finds out which is faster, and by how much.

# %% [markdown] lang="en"
# ### If something went wrong
#
# | you see | why | do |
# |---|---|---|
# | `lmcourse: command not found` | the terminal has another environment | `source .venv/bin/activate` |
# | `no model was found for …` | a typing error in the path, or a link to nowhere | `ls -l ~/`, then read the error's *next step* |
# | an answer that stops in the middle | `finish_reason` is `length` | raise `max_new_tokens` in a `GenerationConfig` |
# | `Could not import module …` after you stopped a cell | it was stopped in the middle of an import | *Kernel → Restart Kernel and Run up to Selected Cell* |
# | everything is slow | other programs use the processor | `lmcourse doctor`, and close them |
