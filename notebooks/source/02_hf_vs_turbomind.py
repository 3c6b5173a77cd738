# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Lesson 2 · Two formats, two engines, one answer
#
# The same weights can be stored in two ways and run by two programs. By the end you have opened both formats by hand, run
# the model through the `transformers` library and through our engine, seen them agree **token for token**, and measured
# both fairly.
#
# **It takes** about 60 minutes. **You need** lesson 1.

# %% [markdown] lang="en"
# ## 1 · The Hugging Face format
#
# *Hugging Face* is a community site where models are published; *ModelScope* and *OpenXLab* play the same part closer to
# China. Nearly all of their models share one layout, the **HF format**: a `config.json`, a tokenizer, and weights in
# *safetensors* files.
#
# **Predict:** can you tell from the config alone how many numbers the model holds? (You did, in exercise 1.1.)

# %%
import json

from lmcourse import model_path

folder = model_path("tiny-chat")
config = json.loads((folder / "config.json").read_text())
for key in ("architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
    print(f"{key:>22}: {config[key]}")

# %% [markdown] lang="en"
# The `architectures` entry names the *kind* of model, here `InternLM2ForCausalLM`, as in the real InternLM2. Everything
# else is dimensions.
#
# Now the weights. A safetensors file starts with 8 bytes that say how long the header is; the header is JSON: name,
# type, shape and place of every tensor. No code can hide in there, which is why this course reads nothing else.
# **Predict:** how many tensors does one layer have?

# %%
import struct

with (folder / "model.safetensors").open("rb") as file:
    (header_length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(header_length))
for name in sorted(name for name in header if ".layers.0." in name):
    print(f"{name:<46} {header[name]['dtype']} {header[name]['shape']}")

# %% [markdown] lang="en"
# Seven: two norms, two matrices for attention, three for the MLP (*gate* and *up* widen a token's numbers, one deciding how
# much of the other passes; *down* narrows them again). Where are the query, key and value matrices? InternLM2
# keeps all three in one, `wqkv`. Remember that name.
#
# We have read the file with eleven lines of code. Let us check that it holds as many numbers as the config promises.

# %%
from math import prod

from lmcourse.accounting import count_parameters
from lmcourse.models import load_spec

header.pop("__metadata__", None)
in_file = sum(prod(entry["shape"]) for entry in header.values())
spec = load_spec(folder)
print(f"{in_file:,} in the file, {count_parameters(spec).total:,} by the config")

# %% [markdown] lang="en"
# ## 2 · transformers, the reference
#
# `transformers` is the library that nearly every model is first written for. Below is the classroom's script
# `pipeline_transformer.py` with another import, and 32-bit floats so that a processor can run it.
#
# InternLM2 used to bring its own Python code along (`trust_remote_code=True`). That code fails on today's transformers, and
# running a stranger's code is a habit to lose. Our import knows InternLM2 by itself and runs nothing remote.

# %%
import torch

from lmcourse.baseline import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, trust_remote_code=True)
model = model.cuda().eval()  # .cuda() takes the best device there is

# %% [markdown] lang="en"
# `history` is the conversation so far; `chat` returns the answer and the longer history. **Predict:** will the second
# answer take about as long as the first?

# %%
inp = "hello"
print("[INPUT]", inp)
response, history = model.chat(tokenizer, inp, history=[])
print("[OUTPUT]", response)

inp = "please provide three suggestions about time management"
print("[INPUT]", inp)
response, history = model.chat(tokenizer, inp, history=history)
print("[OUTPUT]", response)

# %% [markdown] lang="en"
# Inside `chat` there is a loop you already know from exercise 1.2: score all tokens, take the best, append, repeat. Here it
# is in the open, for eight tokens, on a raw prompt.

# %%
ids = tokenizer("上海是", return_tensors="pt").input_ids.to(model.device)
for _ in range(8):
    with torch.no_grad():
        logits = model(ids).logits[0, -1]  # scores for the next token, one per vocabulary entry
    ids = torch.cat([ids, logits.argmax().reshape(1, 1)], dim=1)
by_hand = ids[0].tolist()
print(tokenizer.decode(by_hand, skip_special_tokens=True))

# %% [markdown] lang="en"
# Each turn of that loop reads the *whole* text again. The library's `generate` keeps what it computed for earlier tokens
# (the KV cache, lesson 3), and must arrive at the same tokens.

# %%
start = tokenizer("上海是", return_tensors="pt").input_ids.to(model.device)
library = model.generate(start, max_new_tokens=8, do_sample=False)[0].tolist()
print("the loop and the library agree:", by_hand == library)

# %% [markdown] lang="en"
# ## 3 · LMDeploy and TurboMind: who is who
#
# Four names that everybody mixes up at first:
#
# | name | what it is | here |
# |---|---|---|
# | **LMDeploy** | the toolbox: chat, quantise, serve, benchmark | `lmcourse` |
# | **TurboMind** | one *engine* inside it; LMDeploy also has a PyTorch engine | `lmcourse.engine` |
# | **HF format** | how models are published | read directly |
# | **TurboMind format** | how the engine wants the same weights | `lmcourse convert` |
#
# An engine that wants another layout converts while loading; you rarely see it. We will watch.

# %% [markdown] lang="en"
# ## 4 · A conversion, tensor by tensor
#
# Why another layout at all? Because matrix products like to be *few and large*. The engine asks for queries, keys and
# values in one product, and for the MLP's gate and up halves in one product.
#
# InternLM2's `wqkv` is already fused, but shuffled: its rows go key/value head by key/value head. With 4 query heads and
# 2 key/value heads:
#
# ```text
# stored    q0 q1 k0 v0 │ q2 q3 k1 v1          each name is head_dim = 64 rows
# wanted    q0 q1 q2 q3 │ k0 k1 │ v0 v1
# ```
#
# **Predict:** at which stored row does `k1` begin?

# %%
head_dim = spec.head_dim
stored_order = ["q0", "q1", "k0", "v0", "q2", "q3", "k1", "v1"]
first_row = stored_order.index("k1") * head_dim
print("k1 begins at row", first_row)

# %% [markdown] lang="en"
# Now let the package convert the whole model. Each row of its report says what became of one tensor.

# %%
import tempfile
from pathlib import Path

from lmcourse.models import convert

converted = Path(tempfile.mkdtemp()) / "workspace"
rows = convert(folder, converted)
for row in rows[:7]:
    print(f"{' + '.join(row.sources)}\n    → {row.name} {list(row.shape)}: {row.what}")

# %% [markdown] lang="en"
# One head by hand, to be sure the picture is true: rows `k1` of the stored matrix must be the rows after all queries and
# `k0` in the converted one. **Predict** the converted row: 4 query heads, then `k0`, each 64 rows.

# %%
from safetensors.torch import load_file

stored = load_file(folder / "model.safetensors")["model.layers.0.attention.wqkv.weight"]
engine = load_file(next(converted.glob("*.safetensors")))["layers.0.attention.qkv.weight"]
wanted_row = (4 + 1) * head_dim
print("k1 moved from row", first_row, "to row", wanted_row)
print(
    "same numbers:", torch.equal(stored[first_row : first_row + head_dim], engine[wanted_row : wanted_row + head_dim])
)

# %% [markdown] lang="en"
# Nothing was rounded, nothing was lost: a conversion only moves numbers. So both folders must give the same answers.
# The engine looks at the files to see which format it has been given.

# %%
from lmcourse import GenerationConfig, TurbomindEngineConfig, pipeline

with pipeline(folder) as from_hf, pipeline(converted) as from_engine_format:
    prompts = ["hello", "给我讲个笑话", "What is 48 + 37?"]
    first = [response.token_ids for response in from_hf(prompts)]
    second = [response.token_ids for response in from_engine_format(prompts)]
print("both formats, same tokens:", first == second)

# %% [markdown] lang="en"
# In a terminal the same conversion is `lmcourse convert internlm2-chat-1_8b ~/internlm2-chat-1_8b --dst-path ~/workspace`,
# and `lmcourse chat ~/workspace` runs it.
#
# ## 5 · Do the two engines agree?
#
# Sameness of *tokens* is a strong claim: two programs add up millions of numbers in different orders. Both get 32-bit floats
# here. Look at the scores first, as *log-probabilities*: **softmax** makes shares of scores, `exp(score)` over the sum of
# all, and we take their logarithms. **Predict:** will they be equal to the last bit?

# %%
pipe = pipeline(folder, backend_config=TurbomindEngineConfig(dtype="float32"))
ids = tokenizer("please provide three suggestions about time management").input_ids
one_token = GenerationConfig(max_new_tokens=1, logprobs=5)
ours = pipe({"prompt_token_ids": ids}, gen_config=one_token).logprobs[0]  # log-probability by token
with torch.no_grad():
    theirs = torch.log_softmax(model(torch.tensor([ids], device=model.device)).logits[0, -1], dim=-1)
difference = max(abs(logprob - theirs[token].item()) for token, logprob in ours.items())
print("equal to the last bit:", difference == 0.0)
print("equal within 0.0001: ", difference < 1e-4)

# %% [markdown] lang="en"
# Floating-point sums depend on their order, so the last bits differ. What matters is whether the *best* token ever
# changes. Five prompts, up to 128 tokens each, both languages:

# %%
prompts = ["hello", "请介绍一下你自己。", "What is the KV cache?", "Sort these words: pear, fig, apple", "上海是"]
agree = 0
for prompt, answer in zip(prompts, pipe(prompts), strict=True):
    reference, _ = model.chat(tokenizer, prompt, history=[])
    agree += answer.text == reference
print(f"{agree} of {len(prompts)} answers are the same")

# %% [markdown] lang="en"
# Note that we gave the engine all five at once and transformers one at a time. What a neighbour in the batch asks must
# not change your answer, and it does not.

# %% [markdown] lang="en"
# ## 6 · Which is faster?
#
# The classroom measured 27.7 against 222.6 "words" per second: 8 times. Three things tilt that scale: only the
# transformers loop carried a *growing* history; "words" were *characters*; and nothing fixed the answers' length.
#
# We give both the same prompt and the same number of new *tokens*. **Predict** the ratio for one request.

# %% tags=["measured"]
from lmcourse.bench import GenerationRequest, run_pipeline, run_transformers, time_alternately


def compare(num_requests: int, new_tokens: int) -> dict:
    """Time both on equal work; they take turns, so that a slow moment of the machine hits both."""
    requests = [GenerationRequest(tuple(ids), new_tokens)] * num_requests
    return time_alternately(
        {
            "transformers": lambda: sum(map(len, run_transformers(model, requests))),
            "engine": lambda: sum(map(len, run_pipeline(pipe, requests))),
        },
        repeats=3,
    )


one = compare(num_requests=1, new_tokens=64)
for name, timing in one.items():
    print(f"{name:>12}: {timing.tokens_per_second:7.1f} tokens/s, spread {timing.spread:.0%}")

# %% tags=["check"]
assert one["engine"].num_tokens == one["transformers"].num_tokens
print("both produced", one["engine"].num_tokens, "tokens")

# %% [markdown] lang="en"
# For one request on a processor, the two do the same arithmetic, and what differs is overhead per token. (On a GPU the
# engine records a step once and replays it with one order; there the difference is large.)
#
# Now the situation an engine is built for: **thirty-two requests**. transformers' `generate` takes them one by one; the
# engine runs them together. **Predict** the ratio before you run.

# %% tags=["measured"]
many = compare(num_requests=32, new_tokens=32)
for name, timing in many.items():
    print(f"{name:>12}: {timing.tokens_per_second:7.1f} tokens/s, spread {timing.spread:.0%}")
sooner = many["transformers"].median_seconds / many["engine"].median_seconds
print(f"the engine is done {sooner:.1f} times sooner")

# %% tags=["check"]
assert many["engine"].num_tokens == many["transformers"].num_tokens
print("equal work:", many["engine"].num_tokens, "tokens each")

# %% [markdown] lang="en"
# Why? To produce *one* token, the processor reads every weight once. To produce one token for *each of 32 requests*, it
# still reads every weight once. Reading, and the fixed work of a step, are shared; the arithmetic is not, and so sharing
# alone gives less than a factor of 32. That is **batching**, and doing it while requests come and go is **continuous batching**
# (lessons 3 and 5).

# %% tags=["measured"]
from lmcourse.teach import speed_bars

table = {"1 request": one, "32 requests": many}
speed_bars({case: {name: run.tokens_per_second for name, run in runs.items()} for case, runs in table.items()})

# %% tags=["check"]
pipe.close()
print("closed:", pipe)

# %% [markdown] lang="en" exercise="2.1"
# ## Exercise 2.1 · Put the heads in order
#
# Write the conversion of section 4 for any model. `wqkv` has `kv_heads × (q_per_kv + 2) × head_dim` rows, key/value head
# by key/value head: first its query heads, then its key, then its value. Return `(q, k, v)`, each with whole heads in order.
#
# `einops.rearrange(wqkv, "(kv group d) hidden -> kv group d hidden", …)` turns the picture into axes.

# %% exercise="2.1"
from einops import rearrange


def split_wqkv(wqkv, num_heads: int, num_kv_heads: int):
    """wqkv [rows, hidden] → q [num_heads * head_dim, hidden], k and v [num_kv_heads * head_dim, hidden]."""
    # BEGIN SOLUTION
    group = num_heads // num_kv_heads + 2
    heads = rearrange(wqkv, "(kv group d) hidden -> kv group d hidden", kv=num_kv_heads, group=group)
    q = rearrange(heads[:, :-2], "kv group d hidden -> (kv group d) hidden")
    k = rearrange(heads[:, -2], "kv d hidden -> (kv d) hidden")
    v = rearrange(heads[:, -1], "kv d hidden -> (kv d) hidden")
    return q, k, v
    # END SOLUTION


# %% check="2.1"
from lmcourse import homework

homework.check("2.1", split_wqkv)

# %% [markdown] lang="en" exercise="2.2"
# ## Exercise 2.2 · Wrap a conversation
#
# Write the internlm2 chat template. Each message becomes `<|im_start|>`, its role, a newline, its content, `<|im_end|>`, a
# newline. At the end stands the opening of the assistant's turn, `<|im_start|>assistant` and a newline, so that
# the model knows it is its turn to speak.


# %% exercise="2.2"
def render(messages: list[dict]) -> str:
    """Messages are {"role": …, "content": …}; the result is what the tokenizer gets."""
    # BEGIN SOLUTION
    turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
    return "".join(turns) + "<|im_start|>assistant\n"
    # END SOLUTION


# %% check="2.2"
homework.check("2.2", render)

# %% [markdown] lang="en"
# ## What you have now
#
# * You have read a safetensors file with your own code and know each tensor of a layer.
# * You can say what LMDeploy, TurboMind, HF format and TurboMind format are, and what a conversion changes (order) and does not
#   (numbers).
# * Two engines, one answer, and a speed comparison you could defend.
#
# **Next:** lesson 3 opens the KV cache.

# %% [markdown] lang="en"
# ### If something went wrong
#
# | you see | why | do |
# |---|---|---|
# | `the weights are pickled …` | an old `.bin` checkpoint; pickles can run code | convert it to safetensors, as the error says |
# | `… has the wrong shape` | files of two models in one folder | fetch the folder again |
# | speeds that vary from run to run | another program, a warm laptop | close it, run again, look at the spread |
