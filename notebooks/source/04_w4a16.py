# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Lesson 4 · W4A16: a quarter of the bytes
#
# `lmdeploy lite auto_awq` turns 16-bit weights into 4-bit ones and promises a model 2.4 times as fast. By the end you know
# why fewer bytes mean more speed, why some weights matter more than others, and how eight of them fit into one word.
#
# **It takes** about 75 minutes. **You need** lesson 2; a GPU is nice, not necessary.

# %% [markdown] lang="en"
# ## 1 · Two ways to be slow
#
# Every operation moves bytes and does arithmetic. Whatever takes longer decides:
#
# - **compute-bound**: the arithmetic units are busy, memory waits;
# - **memory-bound**: the units wait for bytes.
#
# The ratio *FLOPs per byte* tells which. **Predict:** one token times a matrix, every weight used once. How many FLOPs per
# 4-byte weight?

# %%
import torch

rows, columns = 1024, 1024


def intensity(tokens):
    """FLOPs per byte of tokens x matrix, float32."""
    flops = 2 * tokens * rows * columns
    return flops / (4 * (rows * columns + tokens * (rows + columns)))


for tokens in (1, 8, 64, 512):
    print(f"{tokens:>4} tokens: {intensity(tokens):6.1f} FLOPs per byte")

# %% [markdown] lang="en"
# One token: half a FLOP per byte. More tokens share the same weights, so the ratio grows with them.
#
# A **roofline** draws what this machine can reach at each ratio: rising where memory decides, flat where arithmetic does.
# The next cell measures *your* machine: its copy speed, its best product, and four real points.

# %% tags=["measured"]
from lmcourse.bench.device import measure_limits, seconds_of
from lmcourse.teach import roofline

cpu = torch.device("cpu")
limits = measure_limits(cpu, torch.float32, repeats=3)
matrices = [torch.randn(rows, columns) for _ in range(40)]  # more than a cache holds
points = {}
for tokens in (1, 8, 64, 512):
    x = torch.randn(tokens, columns)
    seconds = seconds_of(lambda x=x: [x @ matrix.t() for matrix in matrices], cpu, repeats=3) / len(matrices)
    points[f"{tokens} tokens"] = (intensity(tokens), 2 * tokens * rows * columns / seconds)
roofline(limits.device, points, title="This machine")

# %% tags=["check"]
assert points["512 tokens"][1] > points["1 tokens"][1]
sorted(points, key=lambda name: points[name][0])

# %% [markdown] lang="en"
# Decoding is the left end: each step computes *one* token per request and must read *all* weights. Prefill is the right
# end. That is why decoding one request leaves nearly all arithmetic units idle, on a laptop and on an H200 alike.
#
# So: fewer bytes per weight, faster decoding. **Predict:** by how much, for InternLM2-1.8B with 4 bits? (Not 4.)

# %%
from lmcourse import accounting
from lmcourse.bundled import dummy_path
from lmcourse.models import load_spec

h200 = accounting.Device(4.2e12, 750e12)  # bytes and FLOPs per second, measured (benchmarks/)
packed = accounting.Storage(body_bytes=4.25 / 8)  # 4 bits, and 32 bits for each group of 128
for name in ("dummy:internlm2-1_8b", "dummy:llama2-7b"):
    spec = load_spec(dummy_path(name))
    fp16 = 1 / accounting.decode_seconds(spec, h200, context=256)
    w4 = 1 / accounting.decode_seconds(spec, h200, context=256, storage=packed)
    print(f"{spec.family}: at most {fp16:,.0f} tokens/s in float16, {w4:,.0f} with 4 bits: {w4 / fp16:.2f} times")

# %% [markdown] lang="en"
# Not 4: embedding and head stay 16-bit, scales take room, and the KV cache is read as before. The small model has a
# relatively large head, so it gains less. Kernels also pay for launches and unpacking; «2.4×» is a 7B model on an A100.
#
# ## 2 · Rounding to nearest, by hand
#
# Sixteen levels for each **group** of weights, evenly spaced. Stored: the level, plus a scale and a zero per group.
# **Predict:** which weight below gets the largest error?

# %%
group = [0.31, -0.12, 0.05, 0.88, -0.47, 0.02, -0.29, 0.11]
low, high = min(group), max(group)
scale = (high - low) / 15
zero = round(-low / scale)
print(f"scale {scale:.4f}, zero {zero}")
for weight in group:
    level = min(max(round(weight / scale) + zero, 0), 15)
    back = (level - zero) * scale
    print(f"{weight:6.2f}  level {level:2}  back {back:6.3f}  error {back - weight:+.3f}")

# %% [markdown] lang="en"
# No error exceeds half a step, but a step is set by the *largest* weights: one outlier makes all its neighbours coarse. The
# library does the same, group by group:

# %%
from lmcourse.quant import QuantSettings, fake_quantise, fit_grid

settings = QuantSettings(bits=4, group_size=8)
exact = torch.tensor([group])
ours = fake_quantise(exact, fit_grid(exact, settings), settings)
[round(value, 3) for value in ours[0].tolist()]

# %% [markdown] lang="en"
# ## 3 · Bits, groups, size
#
# Fewer bits: smaller and coarser. Smaller groups: finer and larger, because every group carries a scale. Move the slider
# over a real matrix of tiny-chat. **Predict:** does halving the bits double the error?

# %%
from safetensors.torch import load_file

from lmcourse import model_path
from lmcourse.teach import explore_rounding

folder = model_path("tiny-chat")
tensors = load_file(folder / "model.safetensors")
explore_rounding(tensors["model.layers.3.feed_forward.w1.weight"].float())

# %% [markdown] lang="en"
# Each bit less doubles the step: from 8 bits to 4 the error grows sixteenfold. 4 bits in groups of 128 are the common
# compromise: 4.16 bits a weight on disk (4.25 in the engine: scale and zero share a word).
#
# ## 4 · Where it hurts
#
# An error in a weight reaches the output multiplied by its input. So look at the inputs: `lite` runs calibration text
# through the engine and keeps statistics of what each matrix gets.

# %%
from lmcourse.lite import AwqJob, draw_samples, find_text, layers_with_inputs, open_source
from lmcourse.text.tokenizer import Tokenizer

job = AwqJob(calib_samples=8, calib_seqlen=128)
tokenizer = Tokenizer.from_folder(folder)
tokens = draw_samples(find_text("lmcourse"), tokenizer, samples=8, seqlen=128)
weights = open_source(folder, cpu)
for number, inputs in layers_with_inputs(weights, tokens, job):
    if number == 3:
        stats = inputs.stats("mlp.gate_up")
        break
loudest = float(stats.mean_abs.max() / stats.mean_abs.median())
print("inputs:", stats.mean_abs.numel(), "· loudest channel at least twice the median:", loudest > 2)

# %% [markdown] lang="en"
# Some input channels are much louder than others. Errors in *their* weights cost more, though the weights themselves look
# like all the others. That is AWQ's observation: **activations tell which weights matter.**
#
# Storing those columns in 16 bits would work, and would ruin the kernel. AWQ's trick instead: make a column larger before
# rounding, its input smaller by the same factor. The product is unchanged, the column's error shrinks.

# %%
weight = tensors["model.layers.3.feed_forward.w1.weight"].float()
settings = QuantSettings(4, 128)


def output_error(scale):
    """Mean squared error of the outputs when columns are scaled before rounding."""
    scaled = weight * scale
    rounded = fake_quantise(scaled, fit_grid(scaled, settings), settings) / scale
    difference = rounded - weight
    return float(((difference @ stats.second_moment) * difference).sum(1).mean())


plain = output_error(torch.ones(weight.shape[1]))
gentle = stats.mean_abs**0.2
print("larger columns for louder inputs help:", output_error(gentle) < plain)

# %% [markdown] lang="en"
# `second_moment` is the mean of x·xᵀ over all calibration tokens, gathered once; with it the error of any rounding is
# arithmetic, and the data need not be looked at again.
#
# ## 5 · AWQ from scratch
#
# Which factors? AWQ takes s = |x|^r, with one exponent r for all channels, and simply tries some. r = 0 is plain rounding.
# **Predict:** where is the minimum, and what happens near 1?

# %%
from lmcourse.teach import line_chart

curve = {}
for step in range(20):
    louder = stats.mean_abs.clamp(min=1e-4) ** (step / 20)
    middle = (louder.max() * louder.min()) ** 0.5
    curve[step / 20] = output_error(louder / middle) / plain
best = min(curve, key=curve.get)
print("a scale between the ends is best:", 0 < best < 0.95, "· and better than none:", curve[best] < 1)

# %% tags=["check"]
assert abs(curve[0.0] - 1) < 1e-3
drawing = line_chart(
    {"error": {r: round(e, 2) for r, e in curve.items()}},
    x_label="exponent r",
    y_label="output error, plain rounding = 1",
    title="Search for the scale",
)
drawing

# %% [markdown] lang="en"
# Shallow here; the channels of large models differ more. Near 1 the loudest columns set their groups' steps and make all
# neighbours coarse: worse than plain rounding.
#
# The library's search divides by the typical weight as well, and tries all matrices that share an input together, since
# they must share the scale. Then it *clips*: cutting off a group's largest weight makes the rest finer.

# %%
from lmcourse.quant import search_clip, search_scale

gate_up = [tensors[f"model.layers.3.feed_forward.{name}.weight"].float() for name in ("w1", "w3")]
found = search_scale(gate_up, stats, settings)
print("the library's error against plain rounding is lower:", min(found.errors) < found.unscaled_error)
limit = search_clip(weight, stats.second_moment, settings)
largest = weight.abs().view(len(weight), -1, 128).amax(-1)
print("groups that are better off clipped, more than none:", bool((limit < largest).any()))

# %% [markdown] lang="en" exercise="4.1"
# ### Exercise 4.1 · Search the scales
#
# Write `best_ratio(weight, x, round_weight, ratios)`: for each ratio the scales are `x.abs().mean(0).clamp(min=1e-4) ** ratio`, centred
# by dividing by `sqrt(max · min)`. Return the ratio whose rounded matrix gives outputs nearest to the exact ones.
# `round_weight` rounds a matrix; x is [samples, columns].


# %% exercise="4.1"
def best_ratio(weight, x, round_weight, ratios):
    """The ratio with the least squared error of the outputs."""

    # BEGIN SOLUTION
    def error(ratio):
        scale = x.abs().mean(0).clamp(min=1e-4) ** ratio
        scale = scale / (scale.max() * scale.min()).sqrt()
        rounded = round_weight(weight * scale) / scale
        return float(((rounded - weight) @ x.T).square().sum())

    return min(ratios, key=error)
    # END SOLUTION


# %% check="4.1"
from lmcourse import homework

homework.check("4.1", best_ratio)

# %% [markdown] lang="en"
# ## 6 · Packing
#
# Eight 4-bit numbers make one 32-bit word. The order is a convention, and a wrong one makes noise, not an error. AWQ's:
# even numbers in the lower half, odd ones in the upper. On paper: pack 0, 1, … 7.

# %%
from lmcourse.quant import AWQ_ORDER, pack_columns
from lmcourse.teach import packing_picture

print(hex(int(pack_columns(torch.arange(8)[None])[0, 0])))
packing_picture(AWQ_ORDER, title="One word of a checkpoint")

# %% [markdown] lang="en" exercise="4.2"
# ### Exercise 4.2 · Pack the bits
#
# Write `pack(values)`: a list of numbers from 0 to 15 (a multiple of eight of them) becomes a list of words from 0 to
# 2³² − 1, in the order of the picture.


# %% exercise="4.2"
def pack(values):
    """Eight numbers a word, in AWQ's order."""
    # BEGIN SOLUTION
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    eights = [values[first : first + 8] for first in range(0, len(values), 8)]
    return [sum(eight[place] << (4 * nibble) for nibble, place in enumerate(order)) for eight in eights]
    # END SOLUTION


# %% check="4.2"
homework.check("4.2", pack)

# %% [markdown] lang="en"
# ## 7 · Packing for the machine that reads it
#
# Checkpoints pack along the *outputs*; a kernel adds along the *inputs*. So the engine repacks while loading: neighbours
# along k lie 16 bits apart, one in each half of a register, and are taken out together:
#
# ```text
# word & 0x000f000f | 0x64006400      two float16 numbers: 1024 + q1 and 1024 + q0
# minus (1024 + zero), twice          q1 − zero and q0 − zero, exactly
# ```
#
# 0x6400 is 1024 in float16, whose last bit is worth 1. **Predict:** why not simply convert integers to floats?

# %%
import struct

for q in (0, 1, 15):
    half = struct.unpack("<e", struct.pack("<H", 0x6400 | q))[0]
    print(f"0x6400 | {q:2} as float16: {half:.0f}")

# %% [markdown] lang="en"
# A conversion runs on a unit that is sixteen times slower than multiplication. An H200 has time for about four
# instructions per weight while it reads the weight; the obvious unpacking takes fourteen, this one about two.
#
# Here is the kernel's heart as it stands in the engine, `lmcourse/kernels/w4a16.py`:

# %%
import inspect

from lmcourse.kernels import w4a16

print(inspect.getsource(w4a16.dot_rows_of_words.fn))

# %% [markdown] lang="en"
# `dot_words` does eight weights in 17 instructions of PTX (`nibbles.py`). Under Triton's interpreter, where there is no
# PTX, the same kernel runs on your processor with plain shifts. It must be chosen before Triton is imported, hence the
# separate process:

# %%
# !TRITON_INTERPRET=1 python -W ignore -c "from lmcourse.teach.packed_product import show; show()"

# %% [markdown] lang="en" exercise="4.3"
# ### Exercise 4.3 · A product that unpacks as it goes
#
# Write `packed_product(x, words, scales, zeros, group_size)` → [n]. Column k of row n lies in `words[n, k // 8]` at bits
# `SHIFTS[k % 8]` and up. Its weight is (q − zero) · scale, with scale and zero of its group,
# `[n, k // group_size]`. Words are int32: shift, then `& 15`.

# %% exercise="4.3"
SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)


def packed_product(x, words, scales, zeros, group_size):
    """x [k] times a packed matrix [n, k / 8]."""
    # BEGIN SOLUTION
    q = torch.stack([(words >> shift) & 15 for shift in SHIFTS], dim=-1).flatten(1).float()
    scale, zero = (part.repeat_interleave(group_size, dim=1) for part in (scales, zeros))
    return ((q - zero) * scale) @ x
    # END SOLUTION


# %% check="4.3"
homework.check("4.3", packed_product)

# %% [markdown] lang="en"
# ## 8 · Quantise tiny-chat
#
# The classroom's command, with only the package's name changed, was
#
# ```bash
# lmcourse lite auto_awq ~/internlm2-chat-1_8b --calib-dataset 'ptb' --calib-samples 128 --calib-seqlen 1024 \
#     --w-bits 4 --w-group-size 128 --work-dir ~/internlm2-chat-1_8b-4bit
# ```
#
# `einops`, which it asked you to install, was for InternLM2's own code, which regroups `wqkv` with it; our engine does so,
# too. In Python, three times: plain rounding, LMDeploy's fixed rule, AWQ's search. (16 × 256 tokens take 3 to 9 s of a
# processor, the command's 128 × 1,024 up to 158 s: recorded in `benchmarks/`.)

# %%
import tempfile
from pathlib import Path

from lmcourse.lite import METHODS, auto_awq

place, folders = Path(tempfile.mkdtemp()), {}
for name in ("rtn", "smooth", "search"):
    job = AwqJob(calib_samples=16, calib_seqlen=256, method=METHODS[name])
    folders[name] = auto_awq(folder, place / f"tiny-chat-{name}", job, device="cpu").folder
    size = sum(file.stat().st_size for file in folders[name].glob("*.safetensors"))
    print(f"{name:>6}: {size / 2**20:.1f} MiB")
print(f"before: {(folder / 'model.safetensors').stat().st_size / 2**20:.1f} MiB")

# %% [markdown] lang="en"
# Half, not a quarter: a model this small is mostly vocabulary, and that stays in 16 bits. (`--head-bits 8` stores the head
# in 8, a scale per word; this engine reads that, others do not.) What a checkpoint says about itself makes `--model-format
# awq` unnecessary, though it is still accepted:

# %%
import json

json.loads((folders["search"] / "config.json").read_text())["quantization_config"]

# %% [markdown] lang="en"
# Chat with it.

# %%
from lmcourse import TurbomindEngineConfig, pipeline

with pipeline(folders["search"], backend_config=TurbomindEngineConfig(model_format="awq")) as pipe:
    for question in ("hello", "What is the capital of France?"):
        print(pipe(question).text)

# %% [markdown] lang="en"
# ## 9 · What is lost
#
# `auto_awq` also *compensates*, unless told otherwise: columns not yet rounded take back the error (GPTQ's idea).
#
# **Perplexity** says how surprised a model is by each next token of unseen text: lower is better, 1 is no surprise. Its
# logarithm counts in *nats*. Only answers are judged here, each after its whole dialogue; what users say is random by
# design. **Predict:** how much less does the search lose than rounding, with 4 bits and with 3?

# %% tags=["measured"]
import math

from lmcourse.lite import perplexity
from lmcourse.zoo.calibration import held_out_answers

unseen, judged = held_out_answers(folder / "tokenizer.json", samples=48, seqlen=144, seed=77)
exact = perplexity(folder, unseen, judged, device="cpu")
lost = {}  # nats per 1,000 tokens more than float16
for name in ("rtn", "search"):
    job = AwqJob(calib_samples=16, calib_seqlen=256, method=METHODS[name], grid_bits=3)
    coarse = auto_awq(folder, Path(tempfile.mkdtemp()) / f"{name}-3", job, device="cpu").folder
    made = {3: coarse, 4: folders[name]}
    surprise = {bits: perplexity(path, unseen, judged, device="cpu") for bits, path in made.items()}
    lost[name] = {bits: 1000 * math.log(value / exact) for bits, value in surprise.items()}
    print(f"{name:>6}: perplexity {exact:.4f} becomes {surprise[4]:.4f} with 4 bits, {surprise[3]:.4f} with 3")
line_chart(lost, x_label="bits", y_label="nats per 1,000 tokens", title="What is lost, tiny-chat")

# %% tags=["check"]
assert lost["search"][3] < lost["rtn"][3]
print("3 bits lose more than 4:", all(gaps[3] > gaps[4] for gaps in lost.values()))

# %% [markdown] lang="en"
# (`grid_bits=3` keeps a 3-bit grid in 4-bit words: it shows the loss and saves nothing.) With 4 bits so little is lost that
# these 48 dialogues hardly tell the methods apart. The record below asked 1,000 chats of each held-out task, after
# calibration with the classroom's 128 × 1,024 tokens, on an H200; that is too long for a cell. **Predict:** which task
# suffers first?

# %%
from lmcourse.teach import recorded_w4_accuracy

print(recorded_w4_accuracy())

# %% [markdown] lang="en"
# 4 bits: no task moves by a point, about as little as 1,000 chats can tell from chance. 3 bits: plain rounding forgets the
# course; the search keeps it, and loses in tool calls, where one wrong character spoils the answer. An average hides
# that. Measure on **your** task.
#
# And speed? The format is made for GPUs, where bytes decide; on a processor our engine unpacks to floats in its caches.
# Measure what your machine makes of it:

# %% tags=["measured"]
import time

for path in (folder, folders["search"]):
    with pipeline(path) as pipe:
        pipe("hello", max_new_tokens=4)
        started = time.perf_counter()
        made = pipe("Tell me a story.", max_new_tokens=48, ignore_eos=True).generate_token_len
        print(f"{path.name:>18}: {made / (time.perf_counter() - started):6.1f} tokens/s")

# %% tags=["check"]
assert made == 48
made

# %% [markdown] lang="en"
# ## 10 · Memory: the 2350 MB rung
#
# With `--cache-max-entry-count 0.01` the classroom saw 4096 MB in 16 bits and 2350 MB in 4. Can arithmetic explain the
# difference? **Predict** first: 1.8 billion weights, of which the vocabulary twice in 16 bits.

# %%
spec = load_spec(dummy_path("dummy:internlm2-1_8b"))
fp16, w4 = (accounting.count_weight_bytes(spec, storage) / 2**20 for storage in (accounting.Storage(), packed))
print(f"weights: {fp16:,.0f} MiB in float16, {w4:,.0f} MiB with 4 bits")
print(f"difference {fp16 - w4:,.0f} MiB; the classroom saw {4096 - 2350:,}")

# %% [markdown] lang="en"
# More than the classroom saw, so its two figures hold other things, too. The rest of both rungs should be equal: CUDA's
# context, workspace, one per cent of what is free. A table whose rows add up shows it, here for tiny-chat in the processor's
# budget; on a GPU it is `lmcourse bench memory --ladder --packed-model`:

# %%
from lmcourse.bench.ladder import format_packed_rung
from lmcourse.bench.memory import measure_memory

hundredth = TurbomindEngineConfig(cache_max_entry_count=0.01)
print(format_packed_rung(measure_memory(folder, hundredth), measure_memory(folders["search"], hundredth)))

# %% [markdown] lang="en"
# The share is taken from what is free *after* the weights, so the 4-bit rung has a slightly larger cache.
#
# ## 11 · Which cards
#
# The classroom's table called Ada sm_90; it is sm_89, and sm_90 is Hopper. What our engine does on each:
#
# | architecture | cards | 4-bit weights here |
# |---|---|---|
# | sm_75 Turing | 20 series, T4 | plain torch; Triton has no tensor cores there |
# | sm_80 Ampere | A100, A30 | Triton kernels |
# | sm_86 Ampere | 30 series, A10, A16 | Triton kernels, smaller tiles |
# | sm_89 Ada | 40 series, L4 | Triton kernels, smaller tiles |
# | sm_90 Hopper | H100, H200 | Triton kernels, dependent launches |

# %% [markdown] lang="en"
# ## 12 · When 4 bits stop paying
#
# Every batch unpacks the same weights; with many tokens arithmetic decides, and unpacking is only in the way. The engine
# has three forms on a GPU: rows for one token, tiles up to 128, and above that it unpacks once and calls torch's library.
#
# So «a quarter of the traffic» is worth nearly all of it for one request, and nothing for a full batch.
#
# **Next:** lesson 5 puts the model behind a server.
