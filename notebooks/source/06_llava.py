# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] lang="en"
# # Lesson 6 · A model that sees
#
# A language model reads tokens. How can it look at a picture? By the end you have followed a picture from pixels to patches to
# features to tokens, know where they stand in the prompt and what they cost, and have seen which patch a word looks at.
#
# **It takes** about 60 minutes. **You need** lesson 2, and lesson 3 for the bytes.

# %% [markdown] lang="en"
# ## 1 · The classroom's script
#
# LLaVA joins two networks: a *vision transformer* that was trained to describe pictures, and a chat model. The classroom's script is
# below, with another import and a small picture of our own. Our model is `tiny-llava`: LLaVA-1.5's architecture, 4.9 million
# numbers instead of 7 billion, trained on drawings of shapes and digits alone. To run every cell on a real one (section 10), name its
# folder in `LMCOURSE_LLAVA` before JupyterLab starts.

# %%
import os
import warnings
from pathlib import Path

from lmcourse import TurbomindEngineConfig, model_path, pipeline
from lmcourse.vl import load_image
from lmcourse.zoo.pictures import picture, scene_of

drawn = picture(
    scene_of("a large purple star at the top left and a small red digit 7 on the right, on a white background"), seed=4
)
image = load_image(drawn)  # a path, bytes, a data: or http(s): address would do as well

folder = Path(os.environ.get("LMCOURSE_LLAVA", model_path("tiny-llava"))).expanduser()
# large pictures need a long session; transformers wants memory, too, in section 7
backend_config = TurbomindEngineConfig(session_len=8192, cache_max_entry_count=0.4)
with warnings.catch_warnings(record=True) as caught:
    pipe = pipeline(folder, backend_config=backend_config)
response = pipe(("describe this image", image))
print(response.text)

# %% [markdown] lang="en"
# It has never seen a purple star: that pair of colour and shape was kept out of all its training pictures. It knows purple, it knows
# stars, and puts the two together.
#
# `session_len=8192` is the classroom's. This model was trained on 768 tokens, and says so:

# %%
for warning in caught:
    print(warning.message)
image

# %% [markdown] lang="en"
# ## 2 · From pixels to patches
#
# A transformer wants a row of vectors. So the picture is cut into squares, **patches**, and each patch becomes one vector. With
# tiny-llava: 128 × 128 pixels, patches of 16 × 16. **Predict:** how many patches, and how many numbers in each?

# %%
import numpy as np

from lmcourse.teach import draw_attention, draw_features, draw_patches, draw_prompt, draw_tiles

encoder = pipe.engine.encoder
cutting = encoder.eyes.cutting
side, patch = cutting.side, cutting.side // cutting.patches
draw_patches(np.asarray(image.resize((side, side))), patch)

# %% [markdown] lang="en" exercise="6.1"
# ### Exercise 6.1 · Cut a picture into words
#
# Write `patchify(pixels, patch)`: `pixels` is a tensor `[3, height, width]`; return `[patches, 3 · patch · patch]`. Patches are
# read row by row, like text. Inside a patch come all red values, row by row, then all green, then all blue. Height and width are
# multiples of `patch`.

# %% exercise="6.1"
from lmcourse import homework


def patchify(pixels, patch):
    """[3, height, width] → [patches, 3 · patch · patch]."""
    # BEGIN SOLUTION
    _, height, width = pixels.shape
    cut = pixels.reshape(3, height // patch, patch, width // patch, patch)
    return cut.permute(1, 3, 0, 2, 4).reshape(-1, 3 * patch * patch)
    # END SOLUTION


# %% check="6.1"
homework.check("6.1", patchify)

# %% [markdown] lang="en"
# ## 3 · From patches to features
#
# The engine's *encoder* does the rest. It scales each colour with the mean and spread the tower was trained with, then runs three
# stages: one linear map per patch (it is often written as a convolution, and is the same thing), transformer layers (tiny-llava: four)
# in which **all patches see each other**, and a *projector* into the language model's width.

# %%
import torch

prepared = encoder.prepare(image)
with torch.inference_mode():
    tiles = torch.from_numpy(prepared.tiles.pixels).to(encoder.eyes.like.device)
    pixels = encoder.eyes.normalise(tiles)
    seen = encoder.eyes.look(pixels)
    projected = encoder.eyes.project(seen)
for name, tensor in {"pixels": pixels, "seen by the tower": seen, "projected": projected}.items():
    print(f"{name:>18}: {list(tensor.shape)}")

# %% [markdown] lang="en"
# Here sixty-four rows at every stage: a patch never stops being *one* row. **Predict:** in the first picture below, which rows look
# alike? And in the last?

# %%
count = cutting.patches
rows = pixels[0].reshape(3, count, patch, count, patch).permute(1, 3, 0, 2, 4).reshape(count * count, -1)
stages = {"pixels of a patch": rows, "after the tower": seen[0], "after the projector": projected[: count * count]}
draw_features({name: tensor.float().cpu() for name, tensor in stages.items()})

# %% [markdown] lang="en"
# With tiny-llava, white patches hold the same pixels; after the tower even they differ: each knows where it lies and what its
# neighbours show.
#
# The last width (tiny-llava: 256) is that of the language model's *word embeddings*. That is the whole trick of LLaVA: **make picture
# patches look like words**. Are they words? We compare each with the whole vocabulary (tiny-llava: 1,024), by the cosine of
# the angle between: 1 is the same direction, 0 nothing in common.

# %%
words = torch.nn.functional.normalize(pipe.engine.embeddings.float(), dim=-1)
patches = torch.nn.functional.normalize(projected.float(), dim=-1)
nearest = (patches @ words.T).amax(dim=-1)
print("best cosine similarity of any patch with any word is below one half:", bool(nearest.max() < 0.5))

# %% [markdown] lang="en"
# No patch is a word. They live in the same space and mean something no vocabulary has a name for.
#
# ## 4 · Where the picture goes in the prompt
#
# `vicuna`'s template writes `USER: … ASSISTANT:`. The picture stands where its message begins, one token id per patch, an id that
# stands for nothing but “picture here”. When the step runs, the encoder's rows take the place of those embeddings.

# %%
encoded = pipe.encode(("describe this image", image))
piece = encoded.pieces[0]
ids = list(encoded)
print(
    ids[: piece.start],
    "then",
    piece.stop - piece.start,
    "times",
    set(ids[piece.start : piece.stop]),
    "then",
    ids[piece.stop :],
)
draw_prompt(
    [("before", piece.start), ("the picture", piece.stop - piece.start), ("the question", len(ids) - piece.stop)]
)

# %% [markdown] lang="en"
# From here on nothing is special: so many tokens in the KV cache, in the scheduler, in the price. The prefix cache counts them as equal
# if the *pixels* are equal, so asking twice about one picture computes it once.
#
# Questions follow each other as in any chat, and a batch may mix pictures and plain text:

# %%
questions = [
    "What color is the star?",
    "红色的是什么？",
    "Is the star to the left of the digit 7?",
    "How many objects are there?",
]
for question, answer in zip(questions, pipe([(question, image) for question in questions]), strict=True):
    print(f"{question:<42} {answer.text}")
print(pipe(["Hi, pls intro yourself"])[0].text)

# %% [markdown] lang="en"
# ## 5 · What a picture costs
#
# LLaVA-1.5 takes a picture as one square *tile*. Its tokens are arithmetic: (pixels of a side / pixels of a patch)². **Predict** the second line before you run the cell.

# %%
for name, of_side, of_patch in ((folder.name, side, patch), ("LLaVA-1.5", 336, 14)):
    print(f"{name}: ({of_side} / {of_patch})² = {(of_side // of_patch) ** 2} tokens a tile")

# %% [markdown] lang="en"
# And in bytes? Lesson 3's formula: keys and values, layers, key/value heads, head size, bytes a number.

# %%
spec = pipe.engine.spec
ours = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * pipe.engine.embeddings.itemsize
vicuna = 2 * 32 * 32 * 128 * 2  # 32 layers, 32 heads of 128, 2 bytes
print(
    f"{folder.name}: {count**2 * ours / 2**20:.2f} MiB a tile; LLaVA-1.5 of 7B: {576 * vicuna / 2**20:.0f} MiB a tile"
)

# %% [markdown] lang="en"
# What if they do not fit into the session? The classroom's version gave an *empty answer*. We send one picture more than 8,192 tokens can
# hold. **Predict:** empty, cut, or an error?

# %%
from lmcourse.errors import LmcourseError

too_many = 8192 // (piece.stop - piece.start) + 1
try:
    print(pipe(("describe this image", [image] * too_many)))
except LmcourseError as error:
    print(error)

# %% [markdown] lang="en"
# ## 6 · LLaVA-1.6: tiles for detail
#
# 336 × 336 pixels are few: small print is lost. LLaVA-1.6 (*anyres*) looks at the whole picture once, small, and then again in **tiles** at
# full detail. A learned vector, the *newline*, ends each row of patches, and patches that hold only black border are dropped.

# %%
from PIL import Image

from lmcourse.vision.tiles import Cutting, cut

llava_16 = Cutting(side=336, patches=24, way="anyres", merge="spatial_unpad")
wide = load_image(picture(scene_of("a large green heart in the center, on a yellow background"), side=700)).resize(
    (1200, 600)
)
wide_tiles = cut(wide, llava_16)
print(len(wide_tiles.pixels), "tiles,", len(wide_tiles.order), "tokens")
draw_tiles(np.asarray(wide), [tile.transpose(1, 2, 0) for tile in wide_tiles.pixels], (1, len(wide_tiles.pixels) - 1))

# %% [markdown] lang="en"
# Put a picture of your own here (`load_image("~/me.jpg")`) and count again. How is the grid chosen? That is yours to write.

# %% [markdown] lang="en" exercise="6.2"
# ### Exercise 6.2 · Which grid of tiles?
#
# Write `choose_grid(width, height, grids)`; `grids` is a list of `(width, height)` in pixels. Scale the picture so that it just fits
# a grid. The best grid keeps **most pixels** of the picture: as many as the scaled picture has (round both sides down), but never more
# than the picture itself had. Of equally good grids take the one with the smallest area; of equally small ones the first.


# %% exercise="6.2"
def choose_grid(width, height, grids):
    """The grid on which most of the picture remains."""

    # BEGIN SOLUTION stub: return ...
    def rank(grid):
        scale = min(grid[0] / width, grid[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, -grid[0] * grid[1]

    return max(grids, key=rank)
    # END SOLUTION


# %% check="6.2"
homework.check("6.2", choose_grid)

# %% [markdown] lang="en"
# So what does a picture cost in LLaVA-1.6? **Predict** which of these four is the dearest:

# %%
for size in ((336, 336), (672, 672), (1344, 672), (3000, 20)):
    print(f"{size[0]:>5} × {size[1]:<4} {len(cut(Image.new('RGB', size), llava_16).order):>5} tokens")

# %% [markdown] lang="en"
# 672 × 672 fills a grid of 2 × 2 tiles. The picture twice as wide fits 1 × 2, since there is no 2 × 4, and of the strip no
# row of patches is left beside the small view of the whole.

# %% [markdown] lang="en"
# Nearly 3,000 tokens for one picture: that is why the classroom's script says `session_len=8192`. Vicuna was trained on 4,096.
#
# ## 7 · Where does a word look?
#
# While the model writes a word, each attention head weighs all tokens before it, the patches among them. `transformers` hands
# these weights out (of checkpoints in its own layout, *-hf*). First: does it agree with our engine?

# %%
import json

from transformers import AutoModelForImageTextToText
from transformers.utils import logging

logging.disable_progress_bar()
can_read = "vision_config" in json.loads((folder / "config.json").read_text())  # else the layout is the authors' own
if can_read:
    like = pipe.engine.embeddings
    reference = AutoModelForImageTextToText.from_pretrained(folder, dtype=like.dtype, attn_implementation="eager")
    reference.to(like.device)
    inputs = {"pixel_values": pixels, "input_ids": torch.tensor([ids], device=like.device)}
    if cutting.way == "anyres":  # all tiles of a picture together, and how large it was
        sizes = torch.tensor([[image.height, image.width]], device=like.device)
        inputs |= {"pixel_values": pixels[None], "image_sizes": sizes}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    written = reference.generate(**inputs, max_new_tokens=60, do_sample=False)
    answer_ids = written[0, len(ids) :].tolist()
    print("the same tokens:", answer_ids[: len(response.token_ids)] == response.token_ids[:60])

# %% [markdown] lang="en"
# Now one pass over the finished answer with `output_attentions=True`. The weights are summed over heads and layers, for the token that
# *precedes* each word, since that is where the word is chosen. **Predict:** where does “star” look? Where does “7”?

# %%
if can_read:
    inputs["input_ids"], inputs["attention_mask"] = written, torch.ones_like(written)
    with torch.inference_mode():
        layers = reference(**inputs, output_attentions=True).attentions
    said = [pipe.tokenizer.decode([token]).strip() for token in answer_ids]
    whole = slice(piece.start, piece.start + count * count)  # the tile that shows all of the picture
    weights = torch.stack(layers)[:, 0].sum(dim=(0, 1))[:, whole].float().cpu()
    asked = [word for word in ("purple", "star", "left", "7", "white") if word in said] or said[:5]
    looks = {word: weights[len(ids) + said.index(word) - 1].reshape(count, count) for word in asked}
    figure = draw_attention(np.asarray(image), looks)
figure if can_read else None

# %% [markdown] lang="en"
# Attention shows where information *may* come from, not that it was used. A harder test: cover the star and ask again.

# %%
covered = image.copy()
covered.paste((255, 255, 255), (0, 0, 64, 48))
print(pipe(("describe this image", covered)).text)

# %% [markdown] lang="en"
# ## 8 · How good is it, really?
#
# `evaluate_llava` draws scenes that each hold something training never showed, asks in wordings that training never used, and marks
# every attribute. **Predict** from what you have seen: which share does it get right? And with 4-bit weights (lesson 4)?

# %%
results = json.loads((Path(model_path("tiny-llava")) / "evaluation.json").read_text())
print("recorded:", results["machine"]["cpu"], results["date"])
for name, key in (("float32", "tasks"), ("8-bit KV cache", "kv8"), ("4-bit weights", "w4a16")):
    row = results[key]
    print(f"{name:>15}: attributes {row['describe']['accuracy']:.1%}, questions {row['questions']['accuracy']:.1%}")

# %% [markdown] lang="en"
# Numbers like these hold *for that kind of picture*. Show it anything else, and it either says so or makes something up.

# %%
noise = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
cloud = Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC)
print(pipe(("describe this image", cloud)).text)
print(pipe(("What is the capital of France?", image)).text)

# %% [markdown] lang="en"
# ## 9 · A page for pictures
#
# The classroom's last script shows the model on a page with gradio. Below it is whole; with today's gradio only the form of
# an answer differs: it is a list of *messages*. In a terminal the same page is `lmcourse serve gradio tiny-llava --vl`.

# %%
import gradio as gr


def model(image, text):
    if image is None:
        return [{"role": "assistant", "content": "请上传一张图片。"}]
    return [{"role": "user", "content": text}, {"role": "assistant", "content": pipe((text, image)).text}]


demo = gr.Interface(fn=model, inputs=[gr.Image(type="pil"), gr.Textbox()], outputs=gr.Chatbot())
print(model(None, "")[0]["content"])
print(model(image, "描述这张图片")[1]["content"])

# %% [markdown] lang="en"
# `demo.launch()` opens it at port 7860; on a remote machine forward that port as in lesson 5.
#
# ## 10 · The real one
#
# With a GPU of 40 GB, `LMCOURSE_LLAVA=~/llava-v1.6-vicuna-7b` before JupyterLab starts runs *every cell above* on LLaVA-1.6; those of
# section 7 want transformers' layout (*-hf*). With 16 GB the cell below runs it. Only the numbers change: 23 of the
# tower's layers are read, a tile gives up to 576 tokens, 32 layers follow.

# %% tags=["gpu"]
real = Path("~/llava-v1.6-vicuna-7b").expanduser()
if torch.cuda.is_available() and real.exists():
    with pipeline(real, backend_config=TurbomindEngineConfig(session_len=8192)) as large:
        print(large(("describe this image", image)))
else:
    print("No GPU or no such folder here: tiny-llava stands in for it.")

# %% [markdown] lang="en"
# At the end, give back what you took.

# %%
pipe.close()

# %% [markdown] lang="en"
# ## What you have now
#
# * You cut a picture into patches by hand, and saw each become one row, then one token.
# * You know where those tokens stand, what they cost, and what happens when they do not fit.
# * You can say why LLaVA-1.6 cuts tiles, and chose their grid.
# * You have seen where a word looks, and why held-out pictures tell more than a nice example.
#
# **Next:** lesson 7 measures so that others believe it.
#
# ### If something went wrong
#
# | you see | why | do |
# |---|---|---|
# | `the prompt is too long for the session` | pictures are many tokens | raise `session_len`, or show fewer |
# | `the engine is closed` | the last cell closed it | run the cell of section 1 again, then yours |
# | `I see nothing in this picture that I know.` | tiny-llava was trained on drawings of shapes | draw one, or name a real LLaVA in `LMCOURSE_LLAVA` |
# | `MemoryBudgetError` with the real one | 7 billion weights in 16 bits take 14 GB | end what else uses the card, lower `cache_max_entry_count` |
