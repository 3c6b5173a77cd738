# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Lesson 7 · A number that others believe
#
# The classroom ran two short scripts and found one program eight times as fast as the other. You will run them, take
# them apart, and measure again so that the authors of either program would accept the figure.
#
# **It takes** about 60 minutes. **You need** lessons 2 to 4. Close other programs: today the clock counts.
#
# Whoever measures first writes down on what. The *load* is how many programs want a core:

# %% tags=["measured"]
from lmcourse.bench import describe_machine

machine = describe_machine()
for what, value in machine.items():
    print(f"{what.replace('_', ' '):>22}  {value}")

# %% tags=["check"]
assert machine["cores"] >= 1
print("noted:", "date" in machine and "torch" in machine)

# %% [markdown] lang="en"
# ## 1 · The two scripts
#
# Both ask one question ten times and print a speed. First `benchmark_transformer.py`, with another import and the bundled
# model. **Predict** two things: how many "words" per second, and whether the tenth answer takes as long as the first.

# %% tags=["measured"]
import datetime

import torch

from lmcourse.baseline import AutoModelForCausalLM, AutoTokenizer

name = "tiny-chat"
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(name, torch_dtype=torch.float16, trust_remote_code=True).cuda()
model = model.eval()

for i in range(5):
    print(f"Warm up...[{i + 1}/5]")
    response, history = model.chat(tokenizer, "hello", history=[])

inp = "请介绍一下你自己。"
total_words = 0
start_time = datetime.datetime.now()
for _ in range(10):
    response, history = model.chat(tokenizer, inp, history=history)
    total_words += len(response)
delta_time = (datetime.datetime.now() - start_time).total_seconds()
script_one = total_words / delta_time
print(f"Speed: {script_one:.3f} words/s")

# %% tags=["check"]
assert script_one > 0
print("questions asked:", len(history))

# %% [markdown] lang="en"
# Eleven questions for ten answers: keep that in mind. Now `benchmark_lmdeploy.py`. (With `LMCOURSE_SERVER` set it would time
# your class's server and the network; everything after section 5 runs on this machine anyway.)

# %% tags=["measured"]
from lmcourse import pipeline

pipe = pipeline("tiny-chat")

for i in range(5):
    print(f"Warm up...[{i + 1}/5]")
    response = pipe(["hello"])

total_words = 0
start_time = datetime.datetime.now()
for _ in range(10):
    response = pipe([inp])
    total_words += len(response[0].text)
delta_time = (datetime.datetime.now() - start_time).total_seconds()
script_two = total_words / delta_time
print(f"Speed: {script_two:.3f} words/s, {script_two / script_one:.2f} times the other")

# %% tags=["check"]
assert script_two > 0
print("words counted:", total_words)

# %% [markdown] lang="en"
# The classroom's figures were 27.7 and 222.6. An earlier edition had 78.7 and 473.7, and you have yours. Three pairs, three
# ratios: something other than the two programs is being measured. Let us look for it.
#
# ## 2 · The history that grows
#
# Read the two loops again. **Predict:** which of them does more work, the longer it runs?

# %%
session = pipe.chat("hello")  # what the warm-up left behind
read, written = [], []
for _ in range(10):
    session = pipe.chat(inp, session)
    read.append(session.response.input_token_len)
    written.append(session.response.generate_token_len)
alone = pipe(inp)
print("script one reads  ", read)
print("script two reads  ", [alone.input_token_len] * 10)
print("script one writes ", written)
print("script two writes ", [alone.generate_token_len] * 10)

# %% [markdown] lang="en"
# `history=history` hands the whole conversation back in, the warm-up's "hello" included. Script two passes a list with
# one question and forgets.
#
# So one program read many times as many tokens. Tiny-chat repeats itself to the letter; a larger model asked ten times in
# one conversation would also *write* other answers. That is no comparison.
#
# ## 3 · Words that are characters
#
# `len(response)` counts characters. **Predict:** the same engine, equally fast in tokens; in which language does it look
# faster?

# %%
for question in ("请介绍一下你自己。", "Hi, pls intro yourself"):
    answer = pipe(question)
    characters, words = len(answer.text), len(answer.text.split())
    per_token = characters / answer.generate_token_len
    print(f"{characters:>4} characters {words:>3} words {answer.generate_token_len:>3} tokens", end="  ")
    print(f"{per_token:.1f} characters a token   {answer.text[:24]}…")

# %% [markdown] lang="en"
# One English token is several characters, a Chinese token about one or two. Ask in English, and the "speed" rises without
# anything being faster. A model's unit of work is the **token**, so count tokens; and between models with different
# tokenizers, compare texts of the same content.

# %% [markdown] lang="en"
# ## 4 · A clock that does not wait
#
# A GPU is a queue: Python hands over an order and goes on. Whoever stops the clock then has timed the *ordering*. A
# thread shows it on any machine. **Predict** both lines.

# %%
import time
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(1) as device:  # it takes orders, and works them off
    started = time.perf_counter()
    work = device.submit(time.sleep, 0.3)
    ordered = time.perf_counter() - started
    work.result()  # wait, as torch.cuda.synchronize() does
    done = time.perf_counter() - started
print("the order took as long as the work:", ordered > 0.3)
print("with waiting it is the whole time: ", done >= 0.3)

# %% [markdown] lang="en"
# The same with a real GPU, ten large products:

# %% tags=["gpu"]
from lmcourse.teach import recorded_queue

if torch.cuda.is_available():
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    for wait in (False, True):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            product = matrix @ matrix
        if wait:
            torch.cuda.synchronize()
        print(f"synchronised: {wait!s:<6} {1e3 * (time.perf_counter() - started):8.2f} ms")
else:
    print(recorded_queue())

# %% [markdown] lang="en"
# Neither script synchronises. They were lucky: turning tokens into text needs them on the processor, and fetching them
# waits. Time `model(ids)` alone, and the luck is over.
#
# Two smaller sins: `datetime.now()` is the wall clock, which the network may set back (`time.perf_counter()` never goes
# back), and each ran **once**. How much would a second run differ?
#
# ## 5 · Warm-up, median, spread
#
# **Predict:** a fresh engine answers six times. Which time differs most?

# %% tags=["measured"]
with pipeline("tiny-chat") as fresh:
    times = []
    for _ in range(6):
        started = time.perf_counter()
        fresh({"prompt_token_ids": [1] * 64}, max_new_tokens=24, ignore_eos=True)
        times.append(time.perf_counter() - started)
print("ms:", " ".join(f"{1e3 * seconds:.0f}" for seconds in times))

# %% tags=["check"]
import statistics

kept = times[1:]
assert min(kept) <= statistics.median(kept) <= max(kept)
print("kept:", len(kept), "of", len(times))

# %% [markdown] lang="en"
# On a GPU the first call may take seconds: kernels compile, graphs are recorded. On a processor it is little, or nothing.
# So first calls are thrown away, always, before looking at them.
#
# Of the rest we take the **median**: a mean is moved by one hiccup, a minimum is luck. And we state the **spread**, or
# nobody knows whether 5 % is a result or the weather.

# %% [markdown] lang="en" exercise="7.1"
# ### Exercise 7.1 · When a difference is one
#
# Write `speedup(ours, theirs, warmups)`: two lists of seconds for the same work, the first `warmups` of each to be dropped.
# Return two values: how many times faster *ours* is (ratio of the medians, above 1 if ours needs less time), and whether
# that is **certain**: True if every run of one program was quicker than every run of the other, whichever is the faster.


# %% exercise="7.1"
def speedup(ours: list[float], theirs: list[float], warmups: int) -> tuple[float, bool]:
    """Seconds of two programs → (times faster, certain)."""
    # BEGIN SOLUTION
    ours, theirs = ours[warmups:], theirs[warmups:]
    certain = max(ours) < min(theirs) or max(theirs) < min(ours)
    return statistics.median(theirs) / statistics.median(ours), certain
    # END SOLUTION


# %% check="7.1"
from lmcourse import homework

homework.check("7.1", speedup)

# %% [markdown] lang="en"
# ## 6 · The rules
#
# | rule | or else |
# |---|---|
# | count tokens | English is faster than Chinese |
# | the same token ids in, as many out | one side does more work |
# | no end before the last token | who says less is faster |
# | warm up, then repeat and take turns | the first, or the second, pays for the machine |
# | median and spread | a hiccup becomes a finding |
# | the last token on the processor before the clock stops | the ordering is timed |
# | say machine, versions, date | nobody can repeat it |

# %% [markdown] lang="en"
# ## 7 · The contestants
#
# Five, all with the same weights: transformers as it comes, transformers at its best (a *static* cache, whose shapes never
# change; on CUDA `generate` then compiles the step), and our engine three times: plain, with 8-bit keys and values
# (lesson 3), with 4-bit weights (lesson 4).

# %%
import tempfile
from pathlib import Path

from lmcourse import TurbomindEngineConfig, model_path
from lmcourse.bench import engine_contestant, transformers_contestant
from lmcourse.engine import Engine
from lmcourse.lite import AwqJob, auto_awq

folder, on_gpu = model_path("tiny-chat"), torch.cuda.is_available()
job = AwqJob(calib_samples=8, calib_seqlen=128)
four_bit = auto_awq(folder, Path(tempfile.mkdtemp()) / "tiny-chat-4bit", job).folder
dtype, size = ("float16", 2) if on_gpu else ("float32", 4)
plain = Engine.from_folder(folder, TurbomindEngineConfig(dtype=dtype))
eight = Engine.from_folder(folder, TurbomindEngineConfig(dtype=dtype, quant_policy=8))
packed = Engine.from_folder(four_bit, TurbomindEngineConfig(dtype=dtype))
contestants = [
    transformers_contestant("transformers", model, plain.spec),
    transformers_contestant("transformers, static", model, plain.spec, kind="compiled"),
    engine_contestant("engine", plain, element_bytes=size),
    engine_contestant("engine, KV8", eight, element_bytes=size),
    engine_contestant("engine, W4A16", packed, element_bytes=size),
]
print("\n".join(contestant.name for contestant in contestants))

# %% [markdown] lang="en"
# ## 8 · The limit
#
# Before measuring we state what is possible, or we would not know whether a result is good. You have all the pieces: a
# step reads all weights once and everybody's cache, and computes two FLOPs per weight and request.

# %% [markdown] lang="en" exercise="7.2"
# ### Exercise 7.2 · The limit above the bar
#
# Write `decode_limit(model, machine, batch, context)`: the most tokens per second, all requests together. `model` has `weights`
# (how many), `weight_bytes` (of all of them) and `kv_bytes_per_token`; `machine` has `bytes_per_second` and
# `flops_per_second`. Each of the `batch` requests has `context` tokens in its cache. Reading and computing overlap: the
# longer of the two is the time of a step. Attention's own arithmetic may be left out.


# %% exercise="7.2"
def decode_limit(model: dict, machine: dict, batch: int, context: int) -> float:
    """Tokens per second that bytes and FLOPs allow."""
    # BEGIN SOLUTION
    num_bytes = model["weight_bytes"] + batch * context * model["kv_bytes_per_token"]
    reading = num_bytes / machine["bytes_per_second"]
    computing = batch * 2 * model["weights"] / machine["flops_per_second"]
    return batch / max(reading, computing)
    # END SOLUTION


# %% check="7.2"
homework.check("7.2", decode_limit)

# %% [markdown] lang="en"
# `accounting.py` does the same with everything counted. What does each contestant keep in memory? **Predict** the bytes
# per weight of the last: 4 bits are half a byte.

# %%
for contestant in contestants:
    storage = contestant.storage
    print(
        f"{contestant.name:<22} bytes per weight {storage.body_bytes:5.2f}   per key or value {storage.kv_bytes:5.2f}"
    )

# %% [markdown] lang="en"
# More than a half: every group of 128 weights also carries a scale and a zero. And 8-bit keys carry theirs.
#
# ## 9 · One request
#
# Prompts of 32 tokens, answers of 17. **TTFT** is the time to the first token, **TPOT** the time for each further one
# (lesson 5). **Predict** the order of the five, and what share of the limit they reach.

# %% tags=["measured"]
from lmcourse.bench import equal_requests, format_standings, hold_contest, measure_limits

limits = measure_limits(next(model.parameters()).device, model.dtype, repeats=3)
print("this machine:", limits, "\n")


def contest(batch: int, repeats: int = 3):
    """All five on `batch` equal requests."""
    requests = equal_requests(batch, vocab=plain.spec.vocab, prompt_len=32, output_len=17)
    return hold_contest(contestants, requests, device=limits.device, repeats=repeats)


by_batch = {1: contest(1, repeats=5)}
print(format_standings(by_batch[1]))

# %% tags=["check"]
assert all(row.ttft > 0 and row.tokens_per_second > 0 for row in by_batch[1])
print("tokens of each:", {row.num_tokens for row in by_batch[1]})

# %% [markdown] lang="en"
# On a processor transformers and our engine lie close together, and far below the limit: a model of 27 MB is read in about
# a millisecond, and Python's own steps take longer. Fewer bytes cannot help where bytes are not the problem, and unpacking
# costs: KV8 and W4A16 are *slower* there. An honest table says so. (GPUs: section 11.)
#
# ## 10 · The sweep
#
# **Predict:** from 1 to 16 requests, how do the bars grow, and how their limits?

# %% tags=["measured"]
from lmcourse.teach import speed_bars

by_batch |= {batch: contest(batch) for batch in (4, 16)}
bars, tops = (
    {f"{batch} at once": {row.name: getattr(row, field) for row in rows} for batch, rows in by_batch.items()}
    for field in ("tokens_per_second", "limit")
)
drawing = speed_bars(bars, limits=tops, title="Tokens per second; dashed: what this machine would allow")
drawing

# %% tags=["check"]
assert all(row.fraction > 0 for rows in by_batch.values() for row in rows)
print("requests at once:", list(by_batch))

# %% [markdown] lang="en"
# The weights are read once for all, so the limit grows with the batch, until arithmetic decides: then it stops (the
# roofline's corner, lesson 4). A processor is there after a few requests, an H200 after more than a hundred.
#
# Is transformers level or ahead? On a processor that may be: **equal lengths** are what it likes best. People differ.
# **Predict:** ten people, what share of a padded batch is wasted?

# %%
from lmcourse.bench import mixed_requests

people = mixed_requests(10, vocab=plain.spec.vocab, prompt_lens=(8, 120), output_lens=(8, 120))
needed = sum(len(person.prompt_ids) + person.num_output_tokens for person in people)
widest = max(len(person.prompt_ids) for person in people) + max(person.num_output_tokens for person in people)
padded = len(people) * widest
print(f"a padded batch: {padded:,} places for {needed:,} tokens, {1 - needed / padded:.0%} of it padding")

# %% [markdown] lang="en"
# The engine computes no token for padding: requests of any length share a step, and a place that becomes free is taken at
# once (lesson 5).
# Equal lengths hide that, so say which question your benchmark answers.
#
# ## 11 · On a GPU
#
# A 1.8B model on an H200, recorded. There a step reads 3.4 GB of weights, bytes decide, and the order changes:

# %% tags=["gpu"]
from lmcourse.teach import recorded_decode

recorded_decode(
    "internlm2-1_8b",
    settings=("fp16", "fp16, KV int8", "AWQ"),
    programs=("transformers, dynamic cache", "transformers, static cache + compile", "TurboMind", "vLLM"),
)

# %% [markdown] lang="en"
# Two rows of transformers: 12.5 and 285 tokens per second, one library, one card. «Eight times faster» depends on
# *which* transformers. And the AWQ rows: fewer bytes, not always faster.
#
# ## 12 · The others
#
# LMDeploy or vLLM in another environment? Name its Python, or its server's address, before JupyterLab starts:
# `LMCOURSE_PEERS="vllm=/opt/vllm/bin/python"`. Compare servers with servers, so ours stands behind one, too.

# %%
from lmcourse.bench import find_peers, serve_peer
from lmcourse.bench.serving import Load, measure_server
from lmcourse.serve.background import serve_in_background

load, over_http = Load(num_requests=16, max_concurrency=4, prompt_words=(16, 16), output_tokens=(32, 32)), {}
for peer in find_peers():
    with serve_peer(peer, folder) as url:
        over_http[peer.name] = measure_server(url, load)
if over_http:
    with serve_in_background("tiny-chat") as server:
        over_http["lmcourse"] = measure_server(server.url, load)
for name, result in over_http.items():
    print(f"\n--- {name} ---\n{result}")
if not over_http:
    print("no other engine is named in LMCOURSE_PEERS")

# %% [markdown] lang="en"
# ## 13 · The report card
#
# A number without its circumstances is gossip. The card holds the figures, their spread and limits, the machine, the
# versions and the method, in one file that opens anywhere. Send it to whoever doubts you.

# %% tags=["measured"]
from lmcourse.teach import ReportCard

standings = [row for rows in by_batch.values() for row in rows]
for name, result in over_http.items():
    bars.setdefault("over HTTP, 4 at once", {})[name] = result.to_json()["output_tokens_per_second"]
card = ReportCard(
    "tiny-chat: five ways to decode it",
    standings,
    speed_bars(bars, limits=tops, title="Tokens per second; dashed: what this machine would allow"),
    machine,
    (
        "The same 32 token ids in, 17 tokens out, ends of sequence ignored.",
        "One run to warm up, then 3 or 5 in turns; the median. Spread: (fastest - slowest) / median.",
        "Tokens per second: those after the first. The clock stops when the last is on the processor.",
        "The limit: bytes and FLOPs of a step over this machine's own copy and matrix product.",
    ),
)
card.save(Path.home() / "lmcourse-report.html")
card

# %% tags=["check"]
page = (Path.home() / "lmcourse-report.html").read_text(encoding="utf-8")
assert all(row.name in page for row in standings)
print("figures on the card:", len(card.standings))

# %% [markdown] lang="en"
# `lmcourse-report.html` lies in your home folder. In a terminal, `lmcourse bench decode` does the same for any model, and
# `lmcourse bench serve` for any server.

# %%
for engine in (plain, eight, packed):
    engine.close()
pipe.close()
print("closed")

# %% [markdown] lang="en"
# ## What you have now
#
# * You can say what is wrong with a benchmark: its work, its unit, its clock, its single run.
# * You know the limit before you measure, and what share of it you reach.
# * You have a report card with your machine's name on it, and can defend each figure.
#
# **Next:** lesson 8 runs other families of models.

# %% [markdown] lang="en"
# ### If something went wrong
#
# | you see | why | do |
# |---|---|---|
# | spreads above 20 % | others use the machine, or it is hot | close programs, plug the laptop in, run again |
# | a bar beyond its limit | the model fits into the processor's cache, the copy that gave the limit does not | nothing: say so |
# | `the server of vllm ended …` | its own error is shown below | start it by hand and name its address |
# | `… did other work` | a program stopped early | the rule is *as many out*; look at its stop tokens |
