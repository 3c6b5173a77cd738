# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Lesson 8 · Twenty-one names, one decoder
#
# The classroom's table lists twenty-one families of models that LMDeploy could run. By the end you have run a model of
# every kind against an independent program, seen how little differs between them, opened a mixture of experts, and added a
# family yourself.
#
# **It takes** about 60 minutes. **You need** lesson 2 (formats) and lesson 3 (what a step reads).

# %% [markdown] lang="en"
# ## 1 · The table
#
# A config says its *architecture*, the name of a class. **Predict:** how many different architectures do twenty-one
# families have? More, or fewer?

# %%
from lmcourse.models import FAMILIES

for family in FAMILIES:
    print(f"{family.name:<20}{family.sizes:<12}{family.modality:<14}{' | '.join(family.architectures)}")
architectures = {name for family in FAMILIES for name in family.architectures}
print(f"\n{len(FAMILIES)} families, {len(architectures)} architectures")

# %% [markdown] lang="en"
# Llama, Llama2, Code Llama and Yi are *one* architecture: the same arithmetic, other numbers. Others have several names,
# because the class was renamed along the way. `lmcourse list` prints this table in a terminal.
#
# Nobody downloads twenty-one models to try them. The package has a **tiny config** for each row: the keys of the real
# one, small numbers. Weights are drawn at random when such a model is loaded, under the names that the family uses.

# %%
import tempfile
from pathlib import Path

from lmcourse.models.tiny_models import write_tiny_model

place = Path(tempfile.mkdtemp())
config = write_tiny_model("Dbrx", place / "dbrx")
for key in ("architectures", "d_model", "n_heads", "attn_config", "ffn_config"):
    print(f"{key:>14}: {config[key]}")

# %% [markdown] lang="en"
# Nothing in this config is called what Llama calls it: `d_model` is `hidden_size`, `n_heads` is `num_attention_heads`. A
# **reader** per family turns it into the one description that the engine knows, a `ModelSpec`.

# %%
from lmcourse.models import load_spec

spec = load_spec(place / "dbrx")
print(spec.family, spec.hidden, spec.num_heads, spec.num_kv_heads, spec.head_dim)
print(spec.norm, spec.clip_qkv, spec.rotary.base)
print(spec.experts)

# %% [markdown] lang="en"
# ## 2 · What differs: a diff of specs
#
# All sizes aside, in what does each family differ from Llama? **Predict:** which family has the longest line?

# %%
import dataclasses

from lmcourse.bundled import tiny_configs

SIZES = {"family", "hidden", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate", "vocab"}
SIZES |= {"max_context", "bos_id", "eos_ids", "pad_id", "norm_eps", "dtype", "rotary"}
for name in tiny_configs():
    write_tiny_model(name, place / name)
specs = {name: load_spec(place / name) for name in tiny_configs()}
llama = specs["Llama"]
for name, spec in specs.items():
    fields = [field.name for field in dataclasses.fields(spec) if field.name not in SIZES]
    changed = [field for field in fields if getattr(spec, field) != getattr(llama, field)]
    print(f"{name:<26}", ", ".join(f"{field}={getattr(spec, field)}" for field in changed if field != "experts"))

# %% [markdown] lang="en"
# Most lines are empty or short. Falcon's is the longest: another norm, an MLP without a gate, and attention and MLP side by
# side instead of one after the other. Each word there is a row of a small table in the engine; the decoder itself is one
# file that you can read in a sitting.

# %% [markdown] lang="en"
# The other half is how a token's *place* is told. **Rotary embeddings** turn pairs of a head's features by an angle that
# grows with the position; `base` sets how slowly the last pair turns, `fraction` how much of a head is turned, `scaling`
# stretches all for longer texts. **Predict:** who turns only part of a head?

# %%
for name, spec in specs.items():
    rotary = spec.rotary
    if rotary != dataclasses.replace(llama.rotary, base=rotary.base, trained_context=rotary.trained_context):
        print(f"{name:<26} scaling={rotary.scaling}, fraction={rotary.fraction}")
for base in sorted({spec.rotary.base for spec in specs.values()} - {1e4}):
    print(f"base {base:>9,.0f}:", ", ".join(name for name, spec in specs.items() if spec.rotary.base == base))

# %% [markdown] lang="en"
# ## 3 · What differs: names and layouts
#
# The numbers must also be found. Each family has **rules**: which stored tensors make up which matrix of the engine. Here is
# one matrix, the fused query, key and value, in every layout there is.

# %%
from lmcourse.models import find_family, read_json, stored_tensors

seen = set()
for name, spec in specs.items():
    layout = find_family(read_json(place / name / "config.json")).layout
    stored = stored_tensors(layout.rules_for(spec), "layers.0.attention.qkv.weight")
    if stored.sources not in seen:
        seen.add(stored.sources)
        print(f"{name:<10} {len(stored.sources)} × {stored.sources[0]}\n{'':>11}{stored.rule.what}")

# %% [markdown] lang="en"
# Seven ways to write one matrix down. Some are only names. Others are an *order of rows*: InternLM2 and Falcon group heads
# (exercise 2.1), ChatGLM2 turns neighbouring features where Llama turns features half a head apart. Attention adds up
# products over a head's features, so any order will do if queries and keys agree: rows are reordered once, while
# loading, and no kernel needs to know.

# %% [markdown] lang="en"
# ## 4 · The table, live
#
# Now run them all. For each row the engine answers two prompts from a tiny random model, and `transformers` computes the
# same from the same folder. For families that it does not know, tensors are told to it as a relative's
# (`baseline/relabelled.py`). **Predict:** how many tokens of 12 will agree? Random weights have no preferences to hide
# behind.

# %%
from lmcourse.bench.families import try_families

table = try_families()
table

# %% [markdown] lang="en"
# ✓ means: every token is the reference's, and the log-probabilities of the likeliest five differ by less than 0.0001
# at each place. ✗ would be a row that is wrong. A green table is worth only
# what a red one would tell, so let us make one.
#
# Gemma's files use exactly Llama's names. **Predict:** what happens if its config calls itself a Llama?

# %%
from lmcourse.bench.families import TrialTable, compare_folders

pretender = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
write_tiny_model("Gemma", place / "pretender", changes=pretender)
TrialTable(
    [
        compare_folders("Gemma as itself", place / "Gemma", place / "Gemma"),
        compare_folders("Gemma as Llama", place / "pretender", place / "Gemma"),
    ]
)

# %% [markdown] lang="en"
# It loads without a complaint, and answers nonsense. Every tensor was found and used; what is missing is in no tensor: 1
# added to every norm, embeddings multiplied by √hidden, another curve (GELU for SiLU) in the MLP. **Names that fit prove nothing;
# logits do.**
#
# What a reader does not know, it must refuse. Three attempts:

# %%
from lmcourse.errors import LmcourseError

ATTEMPTS = (
    ("Llama", {"architectures": ["Gemma3ForCausalLM"]}),
    ("Mistral", {"rope_scaling": {"rope_type": "longrope", "factor": 4}}),
    ("Mixtral", {"hidden_act": "relu"}),
)
for name, changes in ATTEMPTS:
    write_tiny_model(name, place / "odd", changes=changes)
    try:
        load_spec(place / "odd")
    except LmcourseError as error:
        print(str(error).splitlines()[0])

# %% [markdown] lang="en"
# Some rows also see. Their language model is an old acquaintance; what is new is the **eyes**, which turn a picture into
# tokens. **Predict:** how many tokens for one picture, and does its size matter?

# %%
import torch
from PIL import Image

from lmcourse.vision import load_encoder

for name in [name for name in tiny_configs() if (place / name).exists()]:
    eyes = load_encoder(place / name, dtype=torch.float32, device=torch.device("cpu"))
    if eyes is not None:
        counts = [eyes.prepare(Image.new("RGB", size)).num_tokens for size in ((40, 30), (1920, 1080))]
        print(f"{name:<26}{specs[name].family:<12}{counts} tokens   {sum(p.numel() for p in eyes.eyes.parameters()):,}")

# %% [markdown] lang="en"
# The same number for a stamp and for a poster: each picture is first made one square. The published sizes do no better:
# 576 tokens for any picture in DeepSeek-VL. That is why its 7B has a second tower that looks at 1024 pixels a side, and
# puts the details into the *same* 576 tokens. (LLaVA 1.6 in lesson 6 spends more tokens on larger pictures instead.)

# %% [markdown] lang="en"
# ## 5 · A mixture of experts
#
# Four rows replace the MLP by many small ones, the **experts**. A *router*, one small matrix, gives each expert a logit;
# a token goes to the few with the largest.
#
# ```
#                    ┌─ expert 0 ─┐
#   token ─ router ──┼─ expert 3 ─┼── weighted sum ──▶
#                    └─ (shared) ─┘
# ```
#
# Parameters grow with the number of experts, the work for a token does not.

# %%
from lmcourse.accounting import count_parameters, count_streamed_bytes
from lmcourse.bundled import dummy_path

EXPERTS = ("mixtral-8x7b", "qwen1_5-moe-a2_7b", "deepseek-moe-16b", "dbrx")
shapes = {name: load_spec(dummy_path(f"dummy:{name}")) for name in EXPERTS}
print(f"{'':<20}{'experts':>8}{'chosen':>8}{'shared':>8}{'billions held':>15}{'read for a token':>18}")
for name, spec in shapes.items():
    kept, read = count_parameters(spec).total / 1e9, count_streamed_bytes(spec, batch=1) / 2e9
    own = spec.experts
    print(f"{name:<20}{own.count:>8}{own.chosen:>8}{own.num_shared:>8}{kept:>15.1f}{read:>18.2f}")

# %% [markdown] exercise="8.1"
# ### 8.1 Be the router
#
# Write `choose_experts(logits, chosen, renormalise)`. Softmax (lesson 2) over **all** logits, a list of floats, gives shares; keep the
# `chosen` largest, as a list of `(expert, share)`, largest share first. With `renormalise`, as in Mixtral and Dbrx, the
# kept shares are divided by their sum; without, as in QWen1.5-MoE and DeepSeek-MoE, they stay as they are.
#
# Logits may be large: `math.exp(800)` overflows.

# %% exercise="8.1"
import math


def choose_experts(logits, chosen, renormalise):
    # BEGIN SOLUTION
    highest = max(logits)
    raised = [math.exp(logit - highest) for logit in logits]
    shares = [value / sum(raised) for value in raised]
    best = sorted(range(len(shares)), key=lambda expert: -shares[expert])[:chosen]
    whole = sum(shares[expert] for expert in best) if renormalise else 1.0
    return [(expert, shares[expert] / whole) for expert in best]
    # END SOLUTION


# %% check="8.1"
from lmcourse import homework

homework.check("8.1", choose_experts)

# %% [markdown] lang="en"
# For one token, a mixture is a small model. **Predict:** from which batch on does a decode step of Mixtral read nearly
# all of its 93 GB? Each token leaves an expert out with probability 1 − chosen/count.

# %%
print(f"{'batch':>6}" + "".join(f"{name:>20}" for name in shapes))
for batch in (1, 2, 4, 8, 16, 64):
    shares = (count_streamed_bytes(spec, batch=batch) / count_streamed_bytes(spec) for spec in shapes.values())
    print(f"{batch:>6}" + "".join(f"{share:>20.0%}" for share in shares))

# %% [markdown] lang="en"
# Sixteen requests are enough to wake nearly every expert of Mixtral, and lesson 3's arithmetic returns: reading is shared,
# so throughput grows with the batch, but the first few requests make each other *slower*.
#
# The engine's kernels follow this curve. For one token they read the chosen experts' rows and nothing else; for many, pairs
# of (token, expert) are sorted, and each expert is read once.

# %%
import inspect

from lmcourse.kernels import moe_experts

print(inspect.getdoc(moe_experts))

# %% [markdown] lang="en"
# ## 6 · What differs: words around your words
#
# A chat model was trained on conversations written in one exact form. The same question, as six families want it:

# %%
from lmcourse.text.chat_template import TEMPLATES

for name in ("internlm2", "llama2", "baichuan2", "chatglm2", "gemma", "deepseek"):
    print(f"{name:>10}  {TEMPLATES[name].render('Hi')!r}")

# %% [markdown] lang="en"
# The wrong form works a little, which is the trouble: the answer is merely worse. The engine picks the form by
# architecture, and `--model-name` or `ChatTemplateConfig` overrules it.
#
# Tokenizers differ too. QWen ships none of the usual files but `qwen.tiktoken`: one line a token, its bytes and its rank.
# That is enough for byte-pair encoding: **join the neighbours whose union has the lowest rank**, until none has one.

# %%
from lmcourse.text.tiktoken_file import join_pairs

ranks = {bytes([byte]): byte for byte in range(256)} | {b"er": 256, b"lo": 257, b"low": 258, b"est": 259, b"lowe": 260}
pieces = {rank: token.decode("latin-1") for token, rank in ranks.items()}
for word in ("lower", "lowest", "slow"):
    print(f"{word:>8}", [pieces[rank] for rank in join_pairs(word.encode(), ranks)])

# %% [markdown] lang="en"
# `lower` is `low` + `er`: the pair `er` has the lowest rank, so it was joined before `lowe` could be. Published checkpoints
# bring Python code for this; with `trust_remote_code=True` it would run on your machine with all your rights. Here
# it is twenty-five lines that you can read, and no stranger's code is run for any row of the table.

# %% [markdown] lang="en"
# ## 7 · What it takes to run the real one
#
# | family | on Hugging Face | ask first? |
# |---|---|---|
# | Llama2 | `meta-llama/Llama-2-7b-chat-hf` | yes, a form |
# | InternLM2 | `internlm/internlm2-chat-1_8b` | no |
# | QWen, QWen1.5 | `Qwen/Qwen-7B-Chat`, `Qwen/Qwen1.5-7B-Chat` | no |
# | QWen1.5-MoE | `Qwen/Qwen1.5-MoE-A2.7B-Chat` | no |
# | QWen-VL | `Qwen/Qwen-VL-Chat` | no |
# | InternLM-XComposer | `internlm/internlm-xcomposer-7b`, `internlm/internlm-xcomposer2-vl-7b` | no |
# | Code Llama | `codellama/CodeLlama-7b-Instruct-hf` | no |
# | Falcon | `tiiuae/falcon-7b-instruct` | no |
# | Yi | `01-ai/Yi-6B-Chat` | no |
# | Mistral, Mixtral | `mistralai/Mistral-7B-Instruct-v0.2`, `mistralai/Mixtral-8x7B-Instruct-v0.1` | sometimes |
# | DeepSeek-MoE | `deepseek-ai/deepseek-moe-16b-chat` | no |
# | DeepSeek-VL | `deepseek-ai/deepseek-vl-1.3b-chat`, `deepseek-ai/deepseek-vl-7b-chat` | no |
# | Gemma, Dbrx | `google/gemma-2b-it`, `databricks/dbrx-instruct` | yes, a form |
#
# `pipeline("internlm/internlm2-chat-1_8b")` downloads, asking ModelScope first, then Hugging Face.

# %% [markdown] lang="en"
# Repositories that hold pickled weights only (`pytorch_model.bin`; several first releases of InternLM, Baichuan,
# ChatGLM2, QWen-VL and XComposer) are refused, since a pickle is a program. Look for a revision with safetensors.
#
# Will it fit? **Predict** the largest that a 24 GB card holds in 16 bits, and in 4.

# %%
from lmcourse.accounting import Storage, count_kv_bytes_per_token, count_weight_bytes

NAMES = "internlm2-1_8b gemma-2b yi-6b chatglm2-6b llama2-7b falcon-7b mistral-7b qwen-7b llama2-13b baichuan2-13b"
NAMES += " qwen1_5-moe-a2_7b deepseek-moe-16b codellama-34b mixtral-8x7b llama2-70b dbrx falcon-180b"
four_bits = Storage(body_bytes=0.5195)
rows = []
for name in NAMES.split():
    spec = load_spec(dummy_path(f"dummy:{name}"))
    sizes = [count_weight_bytes(spec, kind) / 2**30 for kind in (Storage(), four_bits)]
    rows.append((*sizes, 1000 * count_kv_bytes_per_token(spec) / 2**20, name))
print(f"{'':<22}{'16 bits':>10}{'W4A16':>10}   KV of 1000 tokens")
for plain, packed, kv, name in sorted(rows):
    print(f"{name:<22}{plain:>6.1f} GiB{packed:>6.1f} GiB{kv:>12.0f} MiB")

# %% [markdown] lang="en"
# A card of 24 GB has 22.4 GiB. In 16 bits the 7B models fit, and 13B misses by a little. In 4 bits Code Llama's 34B fits with
# room for a cache; Mixtral does not.

# %% [markdown] lang="en"
# Look at the last column: Llama2-7B keeps 500 MiB for a thousand tokens, ChatGLM2 and Falcon with their one or two
# key/value heads a small part of that. Grouped heads are the quietest line in a spec and the loudest on a server.
#
# These shapes have names: `lmcourse bench decode dummy:falcon-7b` measures one without a download.

# %% [markdown] lang="en"
# ## 8 · Add a family in one row
#
# Suppose the table lacked QWen1.5. Its class is `Qwen2ForCausalLM`; its paper says: Llama, with biases on queries, keys and
# values. We begin with Llama's reader and Llama's rules, and look at what is left over.

# %%
import torch

from lmcourse.models import decoder, families, hf_config, open_checkpoint

config = read_json(place / "QWen1.5" / "config.json")
checkpoint = open_checkpoint(place / "QWen1.5", torch.device("cpu"))


def left_over(spec, rules):
    names = [name for name, _ in decoder.meta_decoder(spec).named_parameters()]
    used = {source for name in names for source in stored_tensors(rules, name).sources}
    return sorted(set(checkpoint.tensors) - used)


as_llama = hf_config.llama_spec(config)
rules = families.find_family(config).layout.rules
for name in left_over(as_llama, rules)[:3]:
    print("not used:", name)

# %% [markdown] lang="en"
# The loader would warn about exactly these. They are the paper's biases. The row is Llama's with one field changed:


# %%
def qwen2_spec(config):
    return dataclasses.replace(hf_config.llama_spec(config), family="qwen2", qkv_bias=True)


row = families.Family(
    "QWen1.5", "0.5B - 72B", ("Qwen2ForCausalLM",), layout=families.Layout("qwen2", qwen2_spec, rules)
)
print("left over:", left_over(row.layout.read_spec(config), row.layout.rules_for(specs["QWen1.5"])))

# %% [markdown] lang="en"
# Nothing is left over, and section 4 has shown that the logits agree: **that is all it takes**. The engine, its cache,
# its kernels, its server and its 4-bit weights work for the new row at once.
#
# The rule that stacked the rows stacked the biases in the same order. Do that part yourself.

# %% [markdown] exercise="8.2"
# ### 8.2 Biases along with the rows
#
# Write `fuse_qkv(tensors, prefix)`. `tensors` is a dict of a layer's stored tensors, in any order; names are such as
# `prefix + ".q_proj.weight"`. Return the fused weight, rows of q, k, v one below the other, and the fused bias in the same
# order, or `None` if this family stores no biases. `o_proj` is not part of it.


# %% exercise="8.2"
def fuse_qkv(tensors: dict[str, torch.Tensor], prefix: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    # BEGIN SOLUTION
    weight = torch.cat([tensors[f"{prefix}.{part}_proj.weight"] for part in "qkv"])
    if f"{prefix}.q_proj.bias" not in tensors:
        return weight, None
    return weight, torch.cat([tensors[f"{prefix}.{part}_proj.bias"] for part in "qkv"])
    # END SOLUTION


# %% check="8.2"
homework.check("8.2", fuse_qkv)

# %% [markdown] lang="en"
# ## What you have now
#
# * You can read an unknown `config.json` and say in what the model differs from Llama.
# * You distrust a model that merely loads, and know what to hold it against.
# * You know what a mixture of experts reads at batch 1 and at batch 64, and why.
# * You can say what fits your card before you download it.
#
# **Next:** lesson 9 is the homework of the original class.

# %% [markdown] lang="en"
# ### If something went wrong
#
# | you see | why | do |
# |---|---|---|
# | `no family of the table has this architecture; nearest is …` | the engine has no reader for it | section 8; begin with the nearest |
# | `the engine does not compute …` | a known family with an option that is not covered | use a model of the family without it |
# | `holds tensors that the model does not use` | a reader forgot something | look at the names: they say what |
# | good tokens, poor answers | another family's chat template | `--model-name`, section 6 |
