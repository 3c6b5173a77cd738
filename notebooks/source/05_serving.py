# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Lesson 5 · A model that others can use
#
# So far the model lived in your own program. By the end of this lesson it answers over the network: to `curl`, to any
# program written for OpenAI, to a terminal, to a web page. You know what travels on the wire, why many
# users cost little more than one, and what an open port without a key means.
#
# **It takes** about 75 minutes. **You need** lessons 1 to 3.

# %% [markdown] lang="en"
# ## 1 · Three parts
#
# ![Clients send JSON over HTTP to the API server, which turns it into tokens for the engine and streams text back](../images/serving.svg)
#
# - **Engine** (model inference): token ids in, token ids out. It knows nothing of users.
# - **API server**: the layer between. It checks, queues, and turns JSON into tokens and tokens into JSON.
# - **Client**: what a person or program holds.

# %% [markdown] lang="en"
# ## 2 · Start the server
#
# In a terminal (JupyterLab: File → New → Terminal) it is the classroom's command:
#
# ```bash
# lmcourse serve api_server ~/internlm2-chat-1_8b \
#     --model-format hf --quant-policy 0 --server-name 0.0.0.0 --server-port 23333 --tp 1
# ```
#
# `model-format`, `quant-policy` and `tp` go to the engine, as in lessons 2 to 4. `server-name` and `server-port` say where
# to listen; `-h` in their place lists all options. Here we start the same server from a cell, on whichever port is free.

# %%
from lmcourse.serve.background import serve_in_background

server = serve_in_background("tiny-chat")
print(server)

# %% [markdown] lang="en"
# Look at the lower half of the picture again: the three are *roles*, not programs. `lmcourse chat` has them all in one process. Our
# `api_server` merges server and engine, which saves a hop for every token. Large installations split those two as well and
# let them talk **gRPC** (compact binary messages over HTTP/2) in place of HTTP with JSON; LMDeploy can run TurboMind behind
# NVIDIA's Triton Inference Server that way.

# %% [markdown] lang="en"
# Cells get run twice. A second server would find the first one's port and half of the memory taken, the classic error of
# this lesson. **Predict:** what has become of the first server after the next cell?

# %%
first = server
server = serve_in_background("tiny-chat")
print("first:", first)
print("now:  ", server)

# %% [markdown] lang="en"
# A server has a name, here `server`, and a name is held once: starting again stops the old one and frees its memory and its
# port. `with serve_in_background(...) as server:` stops it at the end of the block.
#
# ## 3 · The plainest client
#
# `curl` sends one HTTP request and prints what comes back. The question is JSON in OpenAI's form, which nearly every server
# understands. **Predict:** which parts of the answer besides the text will a program want to know?

# %%
import json
import subprocess

body = {"model": "tiny-chat", "temperature": 0, "messages": [{"role": "user", "content": "What is 48 + 37?"}]}
command = ["curl", "-sS", f"{server.url}/v1/chat/completions"]
command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
choice = answer["choices"][0]
print(choice["message"], choice["finish_reason"], answer["usage"], sep="\n")

# %% [markdown] lang="en"
# `finish_reason` says whether the model was done (`stop`) or was cut (`length`); `usage` is what would be billed. Without
# `"temperature": 0` OpenAI's own servers sample, so each answer differs; ours samples only if a sampling value is given.
#
# ## 4 · Streaming
#
# With `"stream": true` the text comes as it is made, as **server-sent events**: lines of text over a connection that
# stays open. Here they are, raw, without the fields that repeat.

# %% tags=["measured"]
from urllib.request import Request, urlopen


def ask(**more) -> list[str]:
    """The lines of the server's answer."""
    data = json.dumps({**body, **more}).encode()
    request = Request(f"{server.url}/v1/chat/completions", data, {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        return answer.read().decode().split("\n")


lines = ask(stream=True)
for line in lines[:9]:
    start = line.find('"choices"')
    print("data: {… " + line[start:] if start > 0 else line)
print("…\n" + "\n".join(lines[-3:]))

# %% tags=["check"]
events = [line for line in lines if line.startswith("data: ")]
print("first:", json.loads(events[0].removeprefix("data: "))["choices"][0]["delta"], "last:", events[-1])

# %% [markdown] lang="en" exercise="5.1"
# ### Exercise 5.1 · Read a stream
#
# Each event is `data: ` with JSON, ended by an empty line. The first carries only the role; then piece by piece; the last
# word is `[DONE]`. That is the whole protocol.
#
# Write `read_stream(lines)`: the text of the answer with index 0. Lines may also be empty, or comments that begin with a
# colon and keep the connection open. A chunk may hold pieces of several answers, or none at all (the chunk with the
# usage), and a `delta` may lack its `content`.


# %% exercise="5.1"
def read_stream(lines: list[str]) -> str:
    """The text of answer 0 from the lines of a streamed chat completion."""
    # BEGIN SOLUTION
    text = ""
    for line in lines:
        if line == "data: [DONE]":
            break
        if line.startswith("data: "):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                if choice["index"] == 0:
                    text += choice["delta"].get("content") or ""
    return text
    # END SOLUTION


# %% check="5.1"
from lmcourse import homework

homework.check("5.1", read_stream)

# %% [markdown] lang="en"
# ## 5 · Programs written for OpenAI
#
# Nobody writes that loop twice. The `openai` package does it, and only its `base_url` tells it that the model is yours.

# %%
from openai import OpenAI

openai = OpenAI(base_url=f"{server.url}/v1", api_key="none")  # the package insists on a key, this server does not
question = [{"role": "user", "content": "please provide three suggestions about time management"}]
stream = openai.chat.completions.create(model="tiny-chat", messages=question, temperature=0, stream=True)
pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
print("".join(pieces))
print("came in many pieces:", len(pieces) > 5)

# %% [markdown] lang="en"
# Most pieces are one token (look at `pieces`); a busy server sends what has gathered. A character that needs several tokens
# comes when it is complete: half a character is no text.
#
# Errors have one form, too. **Predict** the status of a request for a model that is not there.

# %%
import openai as openai_package

for model, temperature in (("gpt-4", 0), ("tiny-chat", -1)):
    try:
        openai.chat.completions.create(model=model, messages=question, temperature=temperature)
    except openai_package.APIStatusError as error:
        print(error.status_code, error.body["message"].splitlines()[0])

# %% [markdown] lang="en"
# ## 6 · The pipeline's interface, over the network
#
# `lmcourse.client.Client` has the pipeline's calls: a list in, a list of `Response` out; streams; sessions. Where the model
# is computed is the only difference. **Predict:** do pipeline and client give the same text to the last character?

# %%
from lmcourse import model_path, pipeline

prompts = ["hello", "上海是", "What is the KV cache?", "What is 12 * 12?"]
with pipeline(model_path("tiny-chat")) as pipe, server.client() as client:
    here = [response.text for response in pipe(prompts)]
    there = [response.text for response in client(prompts)]
    session = client.chat("hello")
    session = client.chat("please provide three suggestions about time management", session)
print("the same answers:", here == there)
print("turns that the client remembers:", len(session.history))

# %% [markdown] lang="en"
# Who remembers a conversation? The **client**: the server sees all messages anew each time and keeps nothing, so any server
# behind a load balancer can take the next turn. (`/v1/chat/interactive`, LMDeploy's own, keeps it at the server, by number.)
#
# ## 7 · A terminal
#
# `lmcourse serve api_client http://localhost:23333` is the classroom's command-line client: type, press Enter twice. Here a
# pipe types for us.

# %% tags=["measured"]
# !printf 'hello\n\nWhat is 48 + 37?\n\nexit\n\n' | lmcourse serve api_client {server.url}

# %% tags=["check"]
with server.client() as client:
    print(client.chat("What is 48 + 37?", client.chat("hello")).response.text)

# %% [markdown] lang="en"
# ## 8 · A web page
#
# ```bash
# lmcourse serve gradio http://localhost:23333 --server-name 0.0.0.0 --server-port 6006
# ```
#
# The page is a **client** too, and a server for browsers. Given a model instead of an address, it loads the model itself:
# client and engine in one process.
#
# Run the cell and open both links. The API server's own page lists every endpoint and lets you try it. On the chat page
# press *Stop* in a long answer, move the temperature, press *Regenerate*.

# %% tags=["measured"]
from IPython.display import display
from lmcourse.serve.background import chat_in_background

page = chat_in_background(server.url)
display(server, page)

# %% tags=["check"]
print(page)

# %% [markdown] lang="en"
# ### How did your browser get there?
#
# Page and server listen on the machine that runs this notebook, perhaps in a data centre. Your browser reaches only
# JupyterLab. So JupyterLab passes requests for `/proxy/PORT/` on to that port. Nothing to set up, and nobody without your
# Jupyter token gets in.

# %% [markdown] lang="en"
# Without JupyterLab, `ssh` can carry a port. On **your own** computer:
#
# ```bash
# ssh -CNg -L 23333:127.0.0.1:23333 root@ssh.intern-ai.org.cn -p YOUR_SSH_PORT
# ```
#
# Read `-L` as *port 23333 here → 127.0.0.1:23333 there*. `-N`: run nothing; `-C`: compress; `-g`: let **other** computers
# use your end as well, so leave it out in a café.
#
# | port | what the lessons put there | open |
# |---|---|---|
# | 23333 | `serve api_server` | `http://127.0.0.1:23333` |
# | 6006 | `serve gradio` | `http://127.0.0.1:6006` |
# | 7860 | a gradio script of your own (lesson 6) | `http://127.0.0.1:7860` |

# %% [markdown] lang="en"
# ## 9 · An open port, and what a key is worth
#
# `--server-name` chooses the *network cards* that a server listens on. **Predict** for each: can your neighbour in the lab
# use the model?

# %%
from lmcourse.serve.listening import is_open_to_others

for name in ("127.0.0.1", "localhost", "0.0.0.0", "192.168.1.20"):
    print(
        f"--server-name {name:<13}", "everybody who reaches this machine" if is_open_to_others(name) else "this machine"
    )

# %% [markdown] lang="en"
# LMDeploy listens everywhere unless told otherwise; `lmcourse` listens on 127.0.0.1, and warns when it is open without a
# key. Behind `ssh -L` or JupyterLab's proxy 127.0.0.1 is all you need.
#
# Now a server with keys, `--api-keys ann-7f3 bob-9c1` in a terminal.

# %%
from lmcourse.client import Client
from lmcourse.errors import KeyRefusedError
from lmcourse.serve.settings import ServerSettings

keys = ServerSettings(api_keys=("ann-7f3", "bob-9c1"))
with serve_in_background("tiny-chat", settings=keys, name="guarded") as guarded:
    for key in (None, "ann-7f4", "ann-7f3"):
        try:
            with Client(guarded.url, key) as client:
                print(key, "→", client("hello").text)
        except KeyRefusedError as error:
            print(key, "→", error.got, error.what)

# %% [markdown] lang="en"
# A key per person: take one away, and the others go on. But a key protects the *machine*, not the *conversation*. Let us
# stand where a router stands, between client and server. **Predict** what we can read.

# %%
import socket
import threading

heard = []
with socket.create_server(("127.0.0.1", 0)) as wire:

    def overhear() -> None:
        with wire.accept()[0] as connection:
            heard.append(connection.recv(4096).decode())

    listener = threading.Thread(target=overhear)
    listener.start()
    try:
        Client(f"http://127.0.0.1:{wire.getsockname()[1]}", "ann-7f3")
    except ConnectionError:
        listener.join()
print("\n".join(line for line in heard[0].splitlines() if line.startswith(("GET", "Authorization", "authorization"))))

# %% [markdown] lang="en"
# Plain HTTP shows everything: the key, and every prompt. So a port that leaves the machine needs **encryption**:
# `--ssl` with a certificate, an ssh tunnel, or a proxy that speaks https. (And `--max-queue` limits the crowd: 429.)
#
# ## 10 · The engine inside your own program
#
# Often no server is needed. Saved as `~/pipeline.py`, the classroom's script below runs with `python ~/pipeline.py`. (With
# `LMCOURSE_SERVER` set and no GPU, exactly this cell is answered by your class's server.)

# %%
with pipeline("tiny-chat") as pipe:
    response = pipe(["Hi, pls intro yourself", "上海是"])
    print(response)

# %% [markdown] lang="en"
# Two prompts, one list, one batch. And `pipeline_kv.py`, which passes parameters to the engine. Its comment says "20 % of
# the whole memory"; that was never true of this version. It is a share of what is **free after the weights are loaded**, and
# 1 or more is a number of blocks. **Predict** the ratio of the first two lines.

# %%
from lmcourse import TurbomindEngineConfig

for share in (0.8, 0.2, 64):
    backend_config = TurbomindEngineConfig(cache_max_entry_count=share)
    with pipeline("tiny-chat", backend_config=backend_config) as pipe:
        stats = pipe.stats()
        print(f"{share:>4}: {stats.num_blocks:>6,} blocks, {stats.num_blocks * stats.tokens_per_block:>8,} tokens")

# %% [markdown] lang="en"
# The same fields are flags of `api_server`: `--cache-max-entry-count 0.2`, `--model-format awq`, `--enable-prefix-caching`, …
# From a cell it is `serve_in_background(model, TurbomindEngineConfig(...))`.
#
# ## 11 · Continuous batching
#
# Requests do not arrive together, and do not end together. We let one come every third step, with answers of different
# lengths, and ask the engine for its diary.

# %%
from lmcourse import GenerationConfig, model_path
from lmcourse.engine import Engine, EventLog
from lmcourse.teach import step_chart, timeline

LENGTHS = [18, 6, 4, 12, 5, 9]


def record(places: int):
    """What the engine did with six requests, one arriving every third step, and `places` places in the batch."""
    log, config = EventLog(), TurbomindEngineConfig(max_batch_size=places, cache_max_entry_count=64)
    with Engine.from_folder(model_path("tiny-chat"), config, on_event=log) as engine:
        prompt, to_come, step = engine.tokenizer.encode("上海是", add_bos=True), list(LENGTHS), 0
        while to_come or engine.has_work:
            if to_come and step % 3 == 0:
                engine.add(prompt, GenerationConfig(max_new_tokens=to_come.pop(0), ignore_eos=True))
            engine.step()
            step += 1
    return timeline(log)


step_chart(record(places=1), title="Batching off: one request at a time")

# %% [markdown] lang="en"
# A staircase: each waits for all before it. F needs 9 tokens and sees its first one after everybody else's last. Now three
# places. **Predict:** after how many steps is everything done? (54 tokens are to be made.)

# %%
step_chart(record(places=3), title="Continuous batching: three places")

# %% [markdown] lang="en"
# Half the steps: a place is given on in the very step after it becomes free, and nobody waits for A, the long one. Each row
# is as long as before; the rows only lie side by side.
#
# What is it worth in seconds? Eight people ask at once. **Predict** the ratio of the two times, given what lesson 2
# found about reading weights.

# %% tags=["measured"]
import time


def serve_eight(places: int) -> tuple[float, list[str]]:
    """Seconds until eight clients have their answers, and the answers."""
    gen = GenerationConfig(max_new_tokens=48, ignore_eos=True)
    config = TurbomindEngineConfig(max_batch_size=places)
    with serve_in_background("tiny-chat", config, name="trial") as trial, trial.client() as client:
        client("warm up")
        started = time.perf_counter()
        responses = client([f"Tell me about number {n}." for n in range(8)], gen)
        return time.perf_counter() - started, [response.text for response in responses]


(alone, alone_texts), (together, together_texts) = serve_eight(1), serve_eight(8)
print(f"one by one {alone:.2f} s, together {together:.2f} s: {alone / together:.1f} times sooner")

# %% tags=["check"]
print("the same answers:", alone_texts == together_texts)

# %% [markdown] lang="en"
# Not eight times: the weights and the fixed work of a step are shared, each request's own arithmetic is not. A processor
# feels that arithmetic from the first few requests on, a GPU only after dozens: there the ratio is nearer to eight.

# %% [markdown] lang="en" exercise="5.2"
# ### Exercise 5.2 · Steps, static and continuous
#
# Before continuous batching, a batch ran until its *longest* answer was done. Write `count_steps(lengths, places)`: how many
# steps does it take if requests of these lengths wait from the start, in this order? Return `(static, continuous)`. A step
# gives one token to each request that has a place. *Static*: the next `places` requests begin when all of the group are
# done. *Continuous*: the next request takes a place as soon as one is free.


# %% exercise="5.2"
def count_steps(lengths: list[int], places: int) -> tuple[int, int]:
    """Steps with static and with continuous batching."""
    # BEGIN SOLUTION
    static = sum(max(lengths[start : start + places]) for start in range(0, len(lengths), places))
    free_at = [0] * places
    for length in lengths:
        soonest = free_at.index(min(free_at))
        free_at[soonest] += length
    return static, max(free_at)
    # END SOLUTION


# %% check="5.2"
homework.check("5.2", count_steps)

# %% [markdown] lang="en"
# ## 12 · Measuring a server
#
# A person in front of a chat notices two things: the time to the **first** token (TTFT), and the time **per** output token
# after it (TPOT), which should not be slower than one reads. Averages hide the unlucky, so servers are judged by *percentiles*:
# p95 is what 95 of 100 requests stay below.

# %% [markdown] lang="en" exercise="5.3"
# ### Exercise 5.3 · What the slowest feel
#
# Write `waiting_times(requests, share)`. Each request is `(sent, arrivals)`: when it was sent and when each of its tokens
# arrived, in milliseconds. A request's TPOT is the mean gap between its tokens; a single token has none. Return
# `(TTFT, TPOT)` at the percentile `share`, by nearest rank: of n sorted values the one with number ⌈share / 100 · n⌉,
# counted from one.

# %% exercise="5.3"
import math


def waiting_times(requests: list[tuple[int, list[int]]], share: int) -> tuple[float, float]:
    """TTFT and TPOT in milliseconds at a percentile."""
    # BEGIN SOLUTION
    firsts = sorted(arrivals[0] - sent for sent, arrivals in requests)
    rates = sorted((a[-1] - a[0]) / (len(a) - 1) for _, a in requests if len(a) > 1)
    return tuple(values[math.ceil(share / 100 * len(values)) - 1] for values in (firsts, rates))
    # END SOLUTION


# %% check="5.3"
homework.check("5.3", waiting_times)

# %% [markdown] lang="en"
# `lmcourse bench serve` measures a running server. With `--request-rate` requests come at random moments, as from
# strangers: if the server is too slow, the queue grows, and the TTFT shows it. **Goodput** counts only the requests that
# kept a promise, here 2 s to the first token and 200 ms for each other. (ITL is every single gap between two tokens.)

# %% tags=["measured"]
# !lmcourse bench serve {server.url} --num-requests 16 --request-rate 4 --output-tokens 16 32 --goodput 2000 200

# %% tags=["check"]
from lmcourse.bench.serving import Load, measure_server

result = measure_server(server.url, Load(num_requests=6, output_tokens=(4, 8), prompt_words=(2, 4)))
print(len(result.answered), "requests answered, each time to the first token within its latency:",
      all(request.ttft <= request.latency for request in result.answered))  # fmt: skip

# %% [markdown] lang="en"
# Raise `--request-rate` until your machine cannot follow (40 is plenty for a laptop): requests per second hardly rise, TTFT
# explodes, goodput *falls*. A server has a rate up to which it is good, and finding it is what such a measurement is for.
#
# At the end, give back what you took.

# %%
openai.close()
page.close()
server.close()
print(page, server, sep="\n")

# %% [markdown] lang="en"
# ## What you have now
#
# * A server for `curl`, the `openai` package, a terminal and a web page, from a cell or a shell.
# * You can read its protocol, and know who remembers a conversation.
# * You know what 127.0.0.1, 0.0.0.0, a key and `ssh -L` do, and do not.
# * You have seen continuous batching, and can say what TTFT, TPOT and goodput mean.
#
# **Next:** lesson 6 shows the model a picture.
#
# ### If something went wrong
#
# | you see | why | do |
# |---|---|---|
# | `Connection refused`, `no server answers there` | the server was closed, as the last cell does | run section 2 again, then your cell |
# | `port 23333 is in use` (in a terminal) | another server, perhaps your own of before | end it, or choose another `--server-port` |
# | the link opens an empty or a missing page | JupyterLab was started without its proxy | `make lab`, or carry the port with `ssh -L` |
# | 401 | the server has keys | ask your instructor for one: `Client(url, key)`, `--api-key` |
# | 429 | the queue is full | wait a moment and ask again |
