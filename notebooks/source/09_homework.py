# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Lesson 9 · Deploy it yourself
#
# The classroom's homework was a set of screenshots, pasted into a form. Here the *package* notes what really ran: which
# weights, how much cache, what was asked and answered. Nothing to paste, nothing to forge by accident.
#
# **It takes** about 60 minutes, and what is left of the exercises. **You need** lessons 1 to 6.

# %% [markdown] lang="en"
# ## 1 · Where you stand
#
# All exercises of the course, the hints you opened, the time you took, and where to go on. It is remembered in
# `~/lmcourse-homework`, whichever notebook you work in.

# %% tags=["measured"]
from lmcourse import homework

homework.progress()

# %% tags=["check"]
everything = homework.progress()
assert everything.rows
print("exercises by lesson are listed:", len({row.exercise.lesson for row in everything.rows}) >= 6)

# %% [markdown] lang="en"
# ## 2 · The tasks
#
# One basic and four advanced, as in the classroom. For each the package collects **evidence**: a small file you may read
# and delete. A ✗ says what is still missing.

# %%
homework.tasks()

# %% [markdown] lang="en"
# Evidence shows that you deployed; it earns no points. Points come from your *answers*, which are run again when they
# are graded.
#
# ## 3 · Basic: set up, and chat
#
# In a terminal, with the variable in front, the command notes its own talk:
#
# ```bash
# LMCOURSE_EVIDENCE=chat lmcourse chat ~/internlm2-chat-1_8b
# ```
#
# From a notebook `record_command` starts the same command and types for you. Put your own question in.

# %%
from pathlib import Path

from lmcourse.doctor import choose_model, link_model

place = Path.home() / "internlm2-chat-1_8b"
if not place.exists():
    link_model(Path.home(), choose_model(Path.home()))
homework.record_command("chat", "lmcourse chat ~/internlm2-chat-1_8b", ["给我讲个笑话"])

# %% [markdown] lang="en"
# What did it note? The transcript, and what was in force. **Predict:** does the engine count its memory itself, or does it
# ask the device?

# %%
chat = homework.read_evidence("chat").data
for turn in chat["talks"]["terminal"]:
    print(turn["question"], "→", turn["answer"][:30], f"… ({turn['num_tokens']} tokens)")
print(chat["configuration"]["weight_format"], chat["configuration"]["cache_max_entry_count"])
print({part: sorted(chat["memory"][part]) for part in ("weights", "kv_cache")})

# %% [markdown] lang="en"
# Both: *predicted* comes from the model's shape, *measured* from the tensors that are really there. They must agree
# within 5 %.
#
# ## 4 · Four-bit weights
#
# The advanced tasks want W4A16. Lesson 4 quantised with full-size settings; here smaller ones do, if nothing is there yet.

# %%
from lmcourse.lite import AwqJob, auto_awq

four_bit = Path.home() / "internlm2-chat-1_8b-4bit"
if not four_bit.exists():
    auto_awq(place, four_bit, AwqJob(calib_samples=8, calib_seqlen=128))
print(four_bit.name, sorted(path.name for path in four_bit.iterdir())[:2], "…")

# %% [markdown] lang="en"
# ## 5 · Advanced 1: the command line
#
# *Chat in a terminal, with 4-bit weights and a cache ratio of 0.4.* First write the command, then run it.

# %% [markdown] lang="en" exercise="9.1"
# ### Exercise 9.1 · Two flags
#
# Write `chat_command(model, ratio)`: the words of the command that chats with the 4-bit model in the folder `model`, its
# cache taking the share `ratio` of the free memory. A list such as `["lmcourse", "chat", …]`; flags in any order.


# %% exercise="9.1"
def chat_command(model: str, ratio: float) -> list[str]:
    """The words of the command."""
    # BEGIN SOLUTION
    return ["lmcourse", "chat", model, "--model-format", "awq", "--cache-max-entry-count", str(ratio)]
    # END SOLUTION


# %% check="9.1"
homework.check("9.1", chat_command)

# %% [markdown] lang="en"
# In a terminal: `LMCOURSE_EVIDENCE=w4a16-chat` in front of it. **Predict:** which of the five lines below would become a ✗
# without `--cache-max-entry-count`?

# %%
command = f"lmcourse chat {four_bit} --model-format awq --cache-max-entry-count 0.4"
homework.record_command("w4a16-chat", command, ["hello", "上海是"])

# %% [markdown] lang="en"
# ## 6 · Advanced 2: the server, and both its clients
#
# *An API server with the same two settings, reached from the terminal and from a web page.*

# %% [markdown] lang="en" exercise="9.2"
# ### Exercise 9.2 · A server for both clients
#
# Write `server_command(model, ratio, port)`: the words of the command that starts `lmcourse serve api_server` for the 4-bit
# model in the folder `model`, with the cache's share `ratio`, listening on `port`.


# %% exercise="9.2"
def server_command(model: str, ratio: float, port: int) -> list[str]:
    """The words of the command."""
    # BEGIN SOLUTION
    flags = ["--model-format", "awq", "--cache-max-entry-count", str(ratio), "--server-port", str(port)]
    return ["lmcourse", "serve", "api_server", model, *flags]
    # END SOLUTION


# %% check="9.2"
homework.check("9.2", server_command)

# %% [markdown] lang="en"
# You may start it in a terminal, with `LMCOURSE_EVIDENCE=w4a16-server` in front. Here the same server gets a pipeline, so
# that `record` can ask the engine behind it what is in force.

# %%
from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.serve.background import serve_in_background

settings = TurbomindEngineConfig(model_format="awq", cache_max_entry_count=0.4)
served = pipeline(four_bit, backend_config=settings)
server = serve_in_background(served)
homework.record("w4a16-server", served)

# %% [markdown] lang="en"
# The first client is the terminal's:

# %%
homework.record_command("w4a16-server", f"lmcourse serve api_client {server.url}", ["hello"])

# %% [markdown] lang="en"
# The second is the web page, and there **you** have to talk: open the link, ask something, wait for the answer.
# `watch` notes what passes.

# %% tags=["measured"]
from IPython.display import display
from lmcourse.serve.background import chat_in_background

page = chat_in_background(homework.watch("w4a16-server", server.client()))
display(page)

# %% tags=["check"]
print(page)

# %% [markdown] lang="en"
# Run the next cell after you have talked: the ✗ at *gradio* is gone. (Server and page live until this kernel is shut down.)

# %%
homework.read_evidence("w4a16-server")

# %% [markdown] lang="en"
# ## 7 · Advanced 3: inside your program
#
# *The same from Python.* Config keywords and flags are the same words.

# %% [markdown] lang="en" exercise="9.3"
# ### Exercise 9.3 · The same from Python
#
# Write `engine_settings(ratio)`: the keywords for `TurbomindEngineConfig`, as a dict, that load 4-bit weights and give the
# cache the share `ratio`.


# %% exercise="9.3"
def engine_settings(ratio: float) -> dict:
    """Keywords of TurbomindEngineConfig."""
    # BEGIN SOLUTION
    return {"model_format": "awq", "cache_max_entry_count": ratio}
    # END SOLUTION


# %% check="9.3"
homework.check("9.3", engine_settings)

# %% [markdown] lang="en"
# The classroom's script set 0.4 under a comment that said "20 % of the whole memory". What does 0.4 really buy?

# %% [markdown] lang="en" exercise="9.4"
# ### Exercise 9.4 · What the engine will take
#
# Write `engine_share(device_bytes, weight_bytes, block_bytes, entry_count)`:
# the number of KV blocks that the engine makes, and the bytes that weights and blocks take together.
#
# `entry_count` is `cache_max_entry_count`: below 1 a share of what the **weights leave free**, from 1 on a **number of
# blocks**. Only whole blocks are made.


# %% exercise="9.4"
import math


def engine_share(device_bytes: int, weight_bytes: int, block_bytes: int, entry_count: float) -> tuple[int, int]:
    """(number of KV blocks, bytes in all)."""
    # BEGIN SOLUTION
    free = device_bytes - weight_bytes
    num_blocks = math.floor(free * entry_count / block_bytes if entry_count < 1 else entry_count)
    return num_blocks, weight_bytes + num_blocks * block_bytes
    # END SOLUTION


# %% check="9.4"
homework.check("9.4", engine_share)

# %% [markdown] lang="en"
# **Predict** the number of blocks with your own function, and compare.

# %%
from lmcourse.engine.kv_cache import measure_free_bytes
from lmcourse.engine.settings import choose_device

device_bytes = measure_free_bytes(choose_device(None), weight_bytes=0)  # before the weights are there
with pipeline(four_bit, backend_config=TurbomindEngineConfig(cache_max_entry_count=0.4)) as pipe:
    prompts = ["Hi, pls intro yourself", "上海是"]
    response = pipe(prompts)
    evidence = homework.record("w4a16-pipeline", pipe, response, questions=prompts)
    stats = pipe.stats()
    mine = engine_share(device_bytes, stats.weight_bytes, stats.kv_bytes // stats.num_blocks, 0.4)
print("blocks: the engine made", stats.num_blocks, "· you said", mine and mine[0])
evidence

# %% [markdown] lang="en"
# (A processor plays a device of 1 GiB, unless `LMCOURSE_DEVICE_MEMORY_GIB` says otherwise. On a GPU loading may cost
# a few blocks.)
#
# ## 8 · Advanced 4: a model that sees
#
# LLaVA behind a web page. The classroom had to `pip install git+https://github.com/haotian-liu/LLaVA.git@…`; here it is built in.
# In `gradio_llava.py` one line notes it: `pipe = homework.watch("llava-gradio", pipe)`.
#
# Open the page, upload `~/shapes.png` (tiny-llava knows shapes, not photographs), and ask.

# %% tags=["measured"]
from lmcourse import model_path
from lmcourse.serve.background import show_pictures_in_background
from PIL import Image, ImageDraw

picture = Image.new("RGB", (256, 256), "white")
ImageDraw.Draw(picture).ellipse((60, 60, 190, 190), fill="red")
picture.save(Path.home() / "shapes.png")
seeing = pipeline(model_path("tiny-llava"), backend_config=TurbomindEngineConfig(cache_max_entry_count=0.4))
picture_page = show_pictures_in_background(homework.watch("llava-gradio", seeing))
display(picture_page)

# %% tags=["check"]
print(picture_page)

# %% [markdown] lang="en"
# And when you have asked:

# %%
homework.read_evidence("llava-gradio")

# %% [markdown] lang="en"
# ## 9 · Look back
#
# Before you hand in: what is still a ✗? Each says what to do.

# %%
for found in homework.tasks().found:
    missing = [shows for shows, met, _ in found.rows() if not met]
    print(f"{found.task.id:<15} {'complete' if found.complete else 'missing: ' + '; '.join(missing)}")

# %% [markdown] lang="en"
# ## 10 · Hand in
#
# Save every notebook first (Ctrl-S). Then, in a terminal:
#
# ```bash
# lmcourse homework check                        # your saved answers, run as the grader will run them
# lmcourse homework submit --student "Li Lei"    # one zip: notebooks, evidence, progress, versions
# ```
#
# The grader runs your answers again, in a fresh process, on cases that nobody has seen. **Predict:** what happens to an
# answer that prints "all passed" and computes nothing?

# %% tags=["measured"]
# !lmcourse homework submit --out ~/homework.zip

# %% tags=["check"]
import zipfile

with zipfile.ZipFile(Path.home() / "homework.zip") as packed:
    names = packed.namelist()
print("evidence is in it:", any("w4a16-pipeline" in name for name in names))
print("notebooks are in it:", any(name.endswith(".ipynb") for name in names))

# %% [markdown] lang="en"
# It gets no points. Look into the zip before you send it: your notebooks, evidence and versions, nothing else of your
# machine.

# %% [markdown] lang="en"
# ## What you have now
#
# * A model with 4-bit weights, deployed in a terminal, behind a server with two clients, and inside a program.
# * Evidence of it that somebody else can read.
# * One file for your instructor, and a list of what you left for a rainy day.
#
# That was the course. Everything you ran is in `lmcourse/`, short enough to read. Start where you were most surprised.

# %% [markdown] lang="en"
# ### If something went wrong
#
# | you see | why | do |
# |---|---|---|
# | `the command failed` | its own message stands below | run it in a terminal until it works, then record it again |
# | ✗ *4-bit weights* | the unquantised folder was loaded | `…-4bit`, and `--model-format awq` |
# | ✗ *memory within 5 %* | another program uses the GPU | `nvidia-smi`, close it, record again |
# | ✗ *gradio* after a chat | the answer was still coming when you looked | wait for its end, run the cell again |
# | an exercise is missing from the zip | its notebook was not saved | Ctrl-S in each, submit again |
