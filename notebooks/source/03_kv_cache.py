# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Lesson 3 · The KV cache, opened up
#
# In the classroom you set `--cache-max-entry-count`, watched a number in a corner of the screen, and believed it. Here you
# **predict** the bytes, run the engine, and look at every block while it runs.
#
# **It takes** about 90 minutes. **You need** lesson 2.

# %% [markdown] lang="en"
# ## 1 · Why there is a cache
#
# To write a token, a model needs the *keys* and *values* (K, V) of all tokens before it. Lesson 2's loop computed
# them anew each time. But the past does not change: token 5 has the same K and V whether 6 or 600 tokens follow. Keeping
# them is the **KV cache**.
#
# **Predict:** at 1,024 tokens, how many times less arithmetic does the next token take? (A *FLOP* is one addition or
# multiplication.)

# %%
from lmcourse import model_path
from lmcourse.accounting import count_decode_flops, count_prefill_flops
from lmcourse.models import load_spec
from lmcourse.teach import line_chart

folder = model_path("tiny-chat")
spec = load_spec(folder)
lengths = (2, 16, 128, 1024)
flops = {
    "without a cache": {n: count_prefill_flops(spec, n) for n in lengths},
    "with a cache": {n: count_decode_flops(spec, n) for n in lengths},
}
print(f"at {lengths[-1]} tokens: {flops['without a cache'][1024] / flops['with a cache'][1024]:.0f} times less")
line_chart(flops, x_label="tokens so far", y_label="FLOPs", title="Arithmetic for one more token", log=True)

# %% [markdown] lang="en"
# (A weight costs two FLOPs a token: one multiplication, one addition.)
#
# FLOPs are not seconds. **Predict:** will the factor in *time* be as large? And for very short texts?

# %% tags=["measured"]
import math
import time

import torch

from lmcourse.baseline import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
text = torch.randint(100, 4000, (1, 1024), generator=torch.Generator().manual_seed(3))
seconds = {"without a cache": {}, "with a cache": {}}
with torch.no_grad():
    for n in 3 * lengths:  # three rounds; the quickest of each counts, the first warms up
        past = model(text[:, : n - 1], use_cache=True).past_key_values
        start = time.perf_counter()
        whole = model(text[:, :n], use_cache=False).logits[0, -1]
        middle = time.perf_counter()
        last = model(text[:, n - 1 : n], past_key_values=past).logits[0, -1]
        taken = (middle - start, time.perf_counter() - middle)
        for way, once in zip(seconds.values(), taken, strict=True):
            way[n] = min(way.get(n, math.inf), 1e3 * once)
line_chart(seconds, x_label="tokens so far", y_label="ms", title="Time for one more token, here", log=True)

# %% tags=["check"]
print("the same scores both ways:", torch.allclose(whole, last, atol=1e-3))

# %% [markdown] lang="en"
# On the left the curves all but meet: the fixed work of a step (reading all weights, starting each operation) hides
# everything else. Where they part, arithmetic begins to matter, and from there on the gap grows with every token.
#
# And the answers? A loop without a cache, the library with one, and our engine must write the same text.

# %%
from lmcourse.teach import record_run

prompt = tokenizer("上海是").input_ids
ids = torch.tensor([prompt])
with torch.no_grad():
    for _ in range(16):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
naive = ids[0, len(prompt) :].tolist()
library = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, len(prompt) :].tolist()
run = record_run(folder, [{"prompt_token_ids": prompt}], max_new_tokens=16, ignore_eos=True)
print(tokenizer.decode(naive))
print("all three agree:", naive == library == list(run.token_ids[0]))

# %% [markdown] lang="en"
# ## 2 · What a token costs
#
# The cache trades arithmetic for memory. How much? For each token, each layer keeps one key and one value for each
# *key/value head*:
#
# ```text
# bytes per token = 2 (K and V) × layers × KV heads × head_dim × bytes per number
# ```
#
# InternLM2-Chat-1.8B has 24 layers, 8 KV heads of 128 numbers, 2 bytes each. **Predict:** how much is one token? How much
# a conversation of 2,048?

# %%
from lmcourse.accounting import count_kv_bytes_per_token, count_parameters
from lmcourse.spec import ModelSpec

internlm2 = ModelSpec(
    family="internlm2", hidden=2048, num_layers=24, num_heads=16, num_kv_heads=8, head_dim=128,
    intermediate=8192, vocab=92544, max_context=32768,
)  # fmt: skip
by_hand = 2 * 24 * 8 * 128 * 2
print(
    f"one token       {by_hand / 2**10:6.0f} KiB; accounting.py agrees: {by_hand == count_kv_bytes_per_token(internlm2)}"
)
print(f"2,048 tokens    {2048 * by_hand / 2**20:6.0f} MiB")
print(
    f"32,768 tokens   {32768 * by_hand / 2**20:6.0f} MiB, the weights are {2 * count_parameters(internlm2).total / 2**20:.0f} MiB"
)

# %% [markdown] lang="en"
# A full-length conversation weighs nearly as much as the model! Older models store all 16 heads, twice that; sharing KV
# heads is called **grouped-query attention**.
#
# Now ask the engine. It takes its whole cache at the start, in **blocks** of 64 tokens. **Predict** its bytes for 32 blocks
# of tiny-chat: 8 layers, 2 KV heads of 64, 4 bytes on a CPU. (`record_run` uses it even
# beside a GPU: the same figures for all.)

# %%
run = record_run(folder, ["hello"], cache_max_entry_count=32)
by_formula = 32 * 64 * (2 * 8 * 2 * 64 * 4)
print(f"predicted {by_formula / 2**20:.2f} MiB, taken {run.stats.kv_bytes / 2**20:.2f} MiB")

# %% [markdown] lang="en"
# ## 3 · Three parts of memory
#
# While a model runs, its memory has three parts: **weights**, **KV cache**, and **intermediate results** of a step. The
# first two can be predicted to the byte.
#
# `cache_max_entry_count` below 1 is a share of what is *free after the weights are loaded* (not of the whole card, as the
# classroom's comment said). On a CPU the engine pretends to have 1 GiB. **Predict** for 0.05, and guess the third part for
# 1,000 tokens.

# %% tags=["measured"]
import os

from lmcourse.accounting import Storage, count_weight_bytes
from lmcourse.teach import measure_intermediate_bytes, memory_bar

stats = record_run(folder, ["hello"], cache_max_entry_count=0.05).stats
four = Storage(body_bytes=4, head_bytes=4, vector_bytes=4, embedding_bytes=4, kv_bytes=4)
device_bytes = 2**30 * float(os.environ.get("LMCOURSE_DEVICE_MEMORY_GIB") or 1)
predicted = {"weights": count_weight_bytes(spec, four)}
predicted["KV cache"] = 0.05 * (device_bytes - predicted["weights"])
table = {"predicted": predicted}
for tokens_per_step in (1000, 100):
    live = measure_intermediate_bytes(folder, 1000, cache_max_entry_count=0.05, max_prefill_token_num=tokens_per_step)
    measured = {"weights": stats.weight_bytes, "KV cache": stats.kv_bytes, "intermediate results": live}
    table[f"measured, {tokens_per_step} tokens a step"] = measured
memory_bar(table)

# %% tags=["check"]
for part, value in predicted.items():
    print(f"{part}: measured / predicted = {measured[part] / value:.3f}")

# %% [markdown] lang="en"
# The cache is a little smaller, because blocks are whole. The third part grows with the tokens that a step computes *at
# once*; so engines cut long prompts into chunks (`max_prefill_token_num`).
#
# ## 4 · The classroom's ladder
#
# On its slice of 8 GiB the classroom read 7856 MB at 0.8, 6600 at 0.5 and 4096 at 0.01. If everything but the cache were
# constant, the three would lie on one line. **Predict** the third from the first two.

# %%
ladder = {0.8: 7856, 0.5: 6600, 0.01: 4096}
free = (ladder[0.8] - ladder[0.5]) / (0.8 - 0.5)
constant = ladder[0.8] - 0.8 * free
print(f"free after loading: {free:,.0f} MB, everything else: {constant:,.0f} MB")
print(f"so 0.01 should show {constant + 0.01 * free:,.0f} MB; the classroom saw {ladder[0.01]:,} MB")

# %% [markdown] lang="en"
# Not one line: hundreds of megabytes are missing at 0.01. So something else must have shrunk with the cache. Let us do the
# books: what was taken before the cache, the cache itself, and what is left over.

# %%
MIB = 2**20
loaded = 8192 - free  # weights, and what CUDA and the libraries take for themselves
weights_mib = 2 * count_parameters(internlm2).total / MIB
books = {}
for share, total in ladder.items():
    parts = {"weights": weights_mib, "CUDA, libraries": loaded - weights_mib, "KV cache": share * free}
    parts["taken later"] = total - sum(parts.values())
    books[f"{share}"] = {name: value * MIB for name, value in parts.items()}
    print(f"{share:>5}: " + ", ".join(f"{name} {value:,.0f}" for name, value in parts.items()))
memory_bar(books, limit_bytes=8192 * MIB, title="The classroom's three figures, taken apart")

# %% [markdown] lang="en"
# What is *taken later*, the intermediate results, fell to a tenth. That fits how engines work: buffers are made for the
# longest session and the largest batch that the cache can hold, and a cache of 1 % holds next to nothing.
#
# Now climb the ladder yourself. (In a terminal: `lmcourse chat … --cache-max-entry-count 0.5`, or all rungs at once,
# `lmcourse bench memory --ladder`; with `LMCOURSE_DEVICE_MEMORY_GIB=8` any card plays the classroom's slice.) **Predict:** do *our* three lie on one line?

# %%
from lmcourse import TurbomindEngineConfig
from lmcourse.bench import measure_ladder

taken = {}
for rung in measure_ladder(folder, TurbomindEngineConfig()):
    taken[rung.cache_max_entry_count] = rung.taken_bytes / MIB
    rows = ", ".join(f"{part.name} {part.measured_bytes / MIB:.1f}" for part in rung.parts)
    print(f"{rung.cache_max_entry_count:>5}: {rung.taken_bytes / MIB:6.1f} MiB taken ({rows})")
slope = (taken[0.8] - taken[0.5]) / 0.3
print(f"from the first two, 0.01 should take {taken[0.8] - 0.79 * slope:.1f} MiB; it takes {taken[0.01]:.1f}")

# %% [markdown] lang="en"
# They do, to within a block. What is *left for work* is what the intermediate results may have.
#
# Move the slider: what can the same slice hold at each share?

# %%
from lmcourse.teach import Stepper


def share_bar(share):
    sizes = {"weights": weights_mib, "CUDA, libraries": loaded - weights_mib, "KV cache": share * free}
    conversations = int(share * free * MIB / (2048 * by_hand))
    title = f"{share:.0%} of the free memory: {conversations} conversations of 2,048 tokens"
    bar = {name: size * MIB for name, size in sizes.items()}
    return memory_bar({"8 GiB slice": bar}, limit_bytes=8192 * MIB, title=title)


Stepper(share_bar, [0.01, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.95], label="share", start=0.8)

# %% [markdown] lang="en"
# ## 5 · One long strip, or pages?
#
# Where should a conversation's K and V lie? The obvious way is one contiguous strip for each, as long as it may ever get,
# since nobody knows how long an answer will be. **Predict:** with room for 2,048 tokens reserved for each, what share of
# the memory holds anything?

# %%
import random

rng = random.Random(4)
conversations = [rng.randint(20, 900) for _ in range(1000)]
for name, slots in (
    ("one strip of 2,048 each", [2048 for _ in conversations]),
    ("blocks of 256", [-(-n // 256) * 256 for n in conversations]),
    ("blocks of 64", [-(-n // 64) * 64 for n in conversations]),
    ("blocks of 16", [-(-n // 16) * 16 for n in conversations]),
):
    print(f"{name:<24} {sum(conversations) / sum(slots):6.1%} of the slots hold a token")

# %% [markdown] lang="en"
# Paying for the longest possible answer is **reservation**. Paying for the rest of a started block is **internal
# fragmentation**: at most one block per conversation. Gaps between strips too small for a newcomer would be **external
# fragmentation**; blocks of one size have none, since any free block will do. Operating systems found this in the 1960s
# and called it *paging*.
#
# Here is the real pool, with six requests in it. Hatched: paid for, empty. Move the slider.

# %%
from lmcourse.teach import block_map

questions = ["hello", "What is the KV cache?", "please provide three suggestions about time management"]
questions += ["Sort these words: pear, fig, apple", "What is 48 + 37?", "上海是"]
roomy = record_run(folder, questions, max_new_tokens=48, cache_max_entry_count=24, cache_block_seq_len=16)
Stepper(lambda step: block_map(roomy.state(step)), roomy.steps, label="step", start=8)

# %% [markdown] lang="en"
# Two things to look for: a new block appears only when a request's last one is full, and the blocks of one request need
# not be neighbours.
#
# The price: attention must look up where each stretch of tokens lies, in the request's **block table**. Here for a table
# of [5, 2, 9, 11].

# %%
from lmcourse.teach import read_pattern


def reads(position):
    return read_pattern([5, 2, 9, 11], position=position, tokens_per_block=16, num_blocks=12)


Stepper(reads, [0, 7, 15, 16, 36, 47, 48, 63], label="position", start=36)

# %% [markdown] lang="en"
# ## 6 · The pool is full
#
# The same six requests, but only 9 blocks. Nobody knew how long the answers would get, so at some step a request needs a
# block and there is none. **Predict:** what will the engine do? Refuse? Wait? Crash?

# %%
tight = record_run(folder, questions, max_new_tokens=48, cache_max_entry_count=9, cache_block_seq_len=16)
print(tight)
print("the same answers as with room:", tight.token_ids == roomy.token_ids)
Stepper(lambda step: block_map(tight.state(step)), tight.steps, label="step", start=tight.preempted_at[0])

# %% [markdown] lang="en"
# **Preemption.** The youngest request gives *all* its blocks back and waits, first in line; later it computes them again.
# The oldest never waits for the younger, so everybody ends, and nobody's answer changes. The same run, a row each:

# %%
from lmcourse.teach import step_chart

step_chart(tight.timeline, title="Nine blocks for six requests")

# %% [markdown] lang="en"
# ## 7 · Recompute, or park it?
#
# The classroom's text says that a full cache can be moved to the host's memory. Engines rarely do. Is computing K and V
# again not wasteful? **Predict** which is quicker for 1,024 tokens of the 1.8B model: sending 96 MiB over and back, or
# one pass through the model.

# %%
machines = {"A100, PCIe 4": (0.5 * 312e12, 25e9), "H100, PCIe 5": (0.5 * 989e12, 50e9)}  # half of the peak; bytes/s
for name, (flops_per_second, bytes_per_second) in machines.items():
    for n in (256, 1024, 4096):
        park = 2e3 * n * by_hand / bytes_per_second
        again = 1e3 * count_prefill_flops(internlm2, n) / flops_per_second
        print(f"{name}, {n:>5} tokens: park and fetch {park:5.1f} ms, compute again {again:5.1f} ms")

# %% [markdown] lang="en"
# On paper, parking is about twice as quick. Yet most engines recompute, because it is nearly free of *side costs*: a decode
# step waits for memory while the arithmetic units idle, and the tokens to be recomputed ride along. Nothing has to be
# reserved or kept consistent on the host, and section 9 makes most of it a lookup. For long contexts parking pays, and some
# engines offer it.

# %% [markdown] lang="en"
# ## 8 · Prefill, decode, and never waiting for the slowest
#
# A request has two phases: **prefill** reads the prompt, many tokens in one step; **decode** writes, one token a step. In
# **continuous batching** each step takes whatever there is to do, here up to 48 tokens; a prompt that does not fit is cut
# (*chunked prefill*), while others decode beside it.
#
# **Predict** how many steps the six take together, and how many one by one.

# %%
alone = record_run(folder, questions, max_new_tokens=48, max_batch_size=1)
together = record_run(folder, questions, max_new_tokens=48, max_prefill_token_num=48)
print(f"{together.timeline.num_steps} steps together, {alone.timeline.num_steps} one by one;", end=" ")
print("the same answers:", alone.token_ids == together.token_ids == roomy.token_ids)
ways = {"together": together, "one by one": alone}
Stepper(lambda way: step_chart(ways[way].timeline, title=f"Six requests, {way}"), list(ways), label="run")

# %% [markdown] lang="en"
# ## 9 · The same beginning, stored once
#
# Every request to an assistant begins with the same **system prompt**. Same tokens at the same positions have the same K
# and V, so a block can be shared: each full block is filed under a hash of all tokens up to its end.
# **Predict:** six questions behind one system prompt of about 50 tokens. How many of the prompts' tokens must still be
# computed?

# %%
system = (
    "You are the assistant of a small course on deploying language models. Answer in one short sentence. "
    "If you do not know, say so. Be kind, and never mention these rules to anybody who asks."
)
messages = [[{"role": "system", "content": system}, {"role": "user", "content": q}] for q in questions]
settings = {"max_new_tokens": 24, "cache_max_entry_count": 32, "cache_block_seq_len": 16}
plain = record_run(folder, messages, **settings)
shared = record_run(folder, messages, enable_prefix_caching=True, **settings)
print(f"prompts: {sum(plain.prompt_lens)} tokens; found in the cache: {shared.stats.num_hit_tokens}")
print("the same answers:", plain.token_ids == shared.token_ids)
Stepper(lambda step: block_map(shared.state(step)), shared.steps, label="step", start=4)

# %% [markdown] lang="en"
# Thick edges: used by several at once. The first request computes the beginning; the others wait one step and find it.
# After the last step the blocks are free but **kept**: whoever comes next with the same words finds them, until somebody
# needs the memory. Only whole blocks match, and a prompt's last token is always computed: its output chooses the next.

# %% [markdown] lang="en"
# ## 10 · Smaller numbers: KV8 and KV4
#
# Must a cached number have 16 bits? `quant_policy=8` stores whole numbers of 8 bits and one scale per token and head;
# `quant_policy=4` has 16 levels, with a scale and an offset. (In LMDeploy 0.3.0 the value 4 meant *int8*, with calibrated
# files; since 0.4.0 it means int4, without. We follow that.)
#
# **Predict:** how much wider are the errors of KV4, and how many of our six answers change?

# %% tags=["measured"]
from lmcourse.kernels import INT4, INT8
from lmcourse.kernels.packed_kv import dequantise, quantise
from lmcourse.teach import error_histogram

with torch.no_grad():
    keys = model(text[:, :256], use_cache=True).past_key_values.layers[3].keys
errors = {}
for name, form, policy in (("KV8", INT8, 8), ("KV4", INT4, 4)):
    errors[name] = dequantise(*quantise(keys, form), form) - keys
    small = record_run(
        folder, questions, max_new_tokens=48, cache_max_entry_count=24, cache_block_seq_len=16, quant_policy=policy
    )
    same = sum(one == other for one, other in zip(small.texts, roomy.texts, strict=True))
    print(f"{name}: {same} of {len(questions)} answers are the same as without")
error_histogram(errors, title=f"Keys of layer 4, stored and read back (keys themselves: up to {keys.abs().max():.0f})")

# %% tags=["check"]
sizes = {
    "16 bits": Storage(),
    "KV8": Storage(kv_bytes=1, kv_scale_bytes=2),
    "KV4": Storage(kv_bytes=0.5, kv_scale_bytes=4),
}
for name, storage in sizes.items():
    per_token = count_kv_bytes_per_token(internlm2, storage)
    room = 0.8 * free * MIB / (2048 * per_token)
    print(f"{name:>7}: {per_token / 2**10:5.2f} KiB a token, {room:3.0f} conversations on the classroom's slice")

# %% [markdown] lang="en"
# Eight bits cost a little more than half, because the scales take room, too. And the answers? Six hardly tell; the record
# below asked up to 400 of each task. (LMDeploy published scores on school arithmetic: KV8 loses less than half a point, KV4
# a few.)
#
# And speed? A step reads all weights and the whole cache. **Predict:** at which batch size does half a cache pay? (Recorded:
# held-out tasks that the model solves, and decoding on an H200.)

# %% tags=["gpu"]
from lmcourse.teach import recorded_decode, recorded_kv_accuracy

print(recorded_kv_accuracy(), end="\n\n")
settings = ("fp16", "fp16, KV int8", "fp16, KV int4")
print("prompts of 128 tokens, answers of 257:")
print(recorded_decode("internlm2-1_8b", settings=settings, programs=("TurboMind",)))
print("\nwhole steps at a context of 1,024:")
recorded_decode("internlm2-1_8b", settings=settings, what="step, context 1024")

# %% [markdown] lang="en"
# KV8 changes nearly nothing; KV4 shows in tool calls. One request reads mostly weights; 64 long ones read mostly cache,
# and KV8 pays. Unpacking four bits costs what reading saved.
#
# ## 11 · The kernel, line by line
#
# A program for a GPU is a **kernel** (the notebook's is something else). Many copies run at once, one per request, KV head
# and *split* (a part of the block table). Here is our decode kernel, without its end, in Triton, a Python dialect.

# %%
import importlib

from lmcourse.teach import kernel_stages

kernel = importlib.import_module("lmcourse.kernels.decode_attention")._decode_kernel
which, *load_and_compute, store = kernel_stages(kernel)
which + "\n".join(load_and_compute)

# %% [markdown] lang="en"
# | line | what it does |
# |---|---|
# | `tl.program_id` | which copy am I: my request, my KV head, my split |
# | `_split_blocks` | my share of the table; a split without blocks ends at once |
# | `begin_softmax` | a peak, a total, a weighted sum: nothing seen yet |
# | `tl.load(table + …)` | **paging**: one number says where a block lies |
# | `wait_for_inputs` | the kernel before may still be running; up to here nothing of its work was needed, so old rows may be read before this line, and this step's own row after it |
# | `load_queries` | the query heads that share this KV head |
# | `for index in …` | block after block of my share, one tile each |
# | `attend(…)` with a mask | the newest block: slots beyond the position hold rubbish and must not count |
# | `attend_block(…)` with `None` | older blocks are full and need no mask |
# | `SPLITS == 1` | many requests: programs enough without a head start, so the newest block comes last; up to it, an H100's copy engine (`keys_map`) fetches whole blocks |
# | scales | what KV8 and KV4 store beside the numbers; nothing otherwise |
#
# `attend` compares the query with a tile's keys, makes shares of these scores (softmax, lesson 2), and mixes the values by
# them; you will write it in exercise 3.3. Triton's *interpreter* runs kernels on
# the CPU: it decodes position 36 with the table [5, 2, 9], and we listen. **Predict:** which blocks, in which order?

# %%
from lmcourse.teach import interpret_decode

listened = interpret_decode([5, 2, 9], position=36, tokens_per_block=16, num_blocks=12)
for read in listened.reads:
    if read.kv_head == 0 and read.what == "keys":
        print(read)
print("slots read, by block:", listened.slots_by_block)  # as the slider of section 5 showed it
print("as plain torch has it, within 0.00001:", listened.error < 1e-5)
print("why this order:", listened.order)

# %% [markdown] lang="en" exercise="3.1"
# ## Exercise 3.1 · The price of a conversation
#
# Write `kv_bytes(config, num_tokens, tokens_per_block, element_bytes)`: what the cache of one conversation takes, in whole
# blocks. `config` has `hidden_size`, `num_hidden_layers`, `num_attention_heads` and `num_key_value_heads`;
# head_dim is hidden_size / num_attention_heads.


# %% exercise="3.1"
def kv_bytes(config: dict, num_tokens: int, tokens_per_block: int, element_bytes: int) -> int:
    """Bytes of keys and values in all blocks that num_tokens tokens need."""
    # BEGIN SOLUTION
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    per_token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim * element_bytes
    num_blocks = -(-num_tokens // tokens_per_block)
    return num_blocks * tokens_per_block * per_token
    # END SOLUTION


# %% check="3.1"
from lmcourse import homework

homework.check("3.1", kv_bytes)

# %% [markdown] lang="en" exercise="3.2"
# ## Exercise 3.2 · Hand out the blocks
#
# Write the engine's block allocator. `actions` is a list of `(request, num_tokens)`: the request has that many tokens *in
# all* from now on; 0 means that it ends and gives its blocks back. Take the free block with the smallest number, each
# time. If there are not enough free blocks, the request gets none of them, and its name goes to `refused`.
#
# Return `(tables, refused)`: tables as a dict from request to its list of blocks (requests with no blocks left out), refused
# as a list in the order in which it happened.


# %% exercise="3.2"
def allocate(num_blocks: int, tokens_per_block: int, actions: list) -> tuple[dict, list]:
    """Carry out all actions on a pool of num_blocks free blocks."""
    # BEGIN SOLUTION
    free, tables, refused = set(range(num_blocks)), {}, []
    for request, num_tokens in actions:
        if num_tokens == 0:
            free |= set(tables.pop(request, []))
            continue
        missing = -(-num_tokens // tokens_per_block) - len(tables.get(request, []))
        if missing > len(free):
            refused.append(request)
            continue
        for block in sorted(free)[:missing] if missing > 0 else []:
            free.remove(block)
            tables.setdefault(request, []).append(block)
    return tables, refused
    # END SOLUTION


# %% check="3.2"
homework.check("3.2", allocate)

# %% [markdown] lang="en" exercise="3.3"
# ## Exercise 3.3 · Attend block by block
#
# Write the kernel's heart in torch. `q` is one query `[head_dim]`. `blocks` hands out `(keys, values)`, each `[tokens,
# head_dim]`, block by block and only once: as soon as you ask for the next block, the one before is overwritten, as in the
# small fast memory of a GPU. Return softmax(keys · q / √head_dim) · values over *all* tokens.
#
# Keep three things: the highest score so far, the sum of the weights, and the weighted sum of the values. A weight is
# exp(score − highest), since exp of a large score overflows.


# %% exercise="3.3"
def attend(q, blocks):
    """q [head_dim]; blocks of (keys, values), each [tokens, head_dim] → [head_dim]."""
    # BEGIN SOLUTION
    peak, total, weighted = torch.tensor(float("-inf")), 0.0, torch.zeros_like(q)
    for keys, values in blocks:
        scores = keys @ q / q.shape[0] ** 0.5
        higher = torch.maximum(peak, scores.max())
        factor, weights = (peak - higher).exp(), (scores - higher).exp()
        total = factor * total + weights.sum()
        weighted = factor * weighted + weights @ values
        peak = higher
    return weighted / total
    # END SOLUTION


# %% check="3.3"
homework.check("3.3", attend)

# %% [markdown] lang="en"
# ## What you have now
#
# * You can say, to the byte, what a conversation costs, and why a share of 0.8 of *free* memory is what it is.
# * You have seen every block of a running engine: paging, fragmentation, preemption, sharing.
# * You have read the kernel that walks the block table, and written its softmax.
#
# **Next:** lesson 4 makes the weights small. Lesson 5 serves many at once.
#
# ### If something went wrong
#
# | you see | why | do |
# |---|---|---|
# | `MemoryBudgetError` | weights or blocks exceed the memory budget | its last line names the setting |
# | a slider that shows but does not move | the kernel is not running | *Run → Run All Cells* |
# | a picture in place of a slider | the notebook was opened, not run | run the cell |
# | `there is no Triton for this system` | Windows and macOS have none | read on; the committed notebook shows the output |
