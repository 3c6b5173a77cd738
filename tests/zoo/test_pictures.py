"""Scenes, drawings and words: both sides of the evaluation apart, every description read back, every row whole."""

from __future__ import annotations

import secrets
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from lmcourse.bundled import model_path
from lmcourse.errors import ConfigError
from lmcourse.zoo.batches import IGNORED
from lmcourse.zoo.pictures.batches import PictureStream
from lmcourse.zoo.pictures.captions import NOTHING_KNOWN, attributes, caption, claims, scene_of
from lmcourse.zoo.pictures.conversation import IMAGE_TOKENS, conversation, tokenised
from lmcourse.zoo.pictures.draw import SIDE, draw, encode_scenes, picture
from lmcourse.zoo.pictures.outlines import distances
from lmcourse.zoo.pictures.questions import MAKERS, ask
from lmcourse.zoo.pictures.scene import HUGE, NEW_PAIRS, Scene, Thing, is_held_out, is_new_pair, new_scene, scene
from lmcourse.zoo.pictures.sizes import LANGUAGE
from lmcourse.zoo.pictures.vocabulary import CELLS, COLOURS, KINDS, SHAPES

_TOKENIZER = model_path("tiny-llava") / "tokenizer.json"


@pytest.fixture
def rng() -> Random:
    seed = secrets.randbits(40)
    print("seed", seed)
    return Random(seed)


def _held_out(shown: Scene) -> list[bool]:
    assert shown.background is not None
    return [is_held_out(thing.kind, thing.colour, shown.background) for thing in shown.things]


def test_scenes_of_training_show_nothing_that_is_held_out(rng: Random) -> None:
    for _ in range(4000):
        shown = scene(rng)
        assert shown.background is None or not any(_held_out(shown))


def test_every_new_scene_shows_something_that_is_held_out(rng: Random) -> None:
    made = [new_scene(rng) for _ in range(2000)]
    assert all(any(_held_out(shown)) for shown in made)
    new_pairs = [any(is_new_pair(t.kind, t.colour) for t in shown.things) for shown in made]
    assert 0.1 < sum(new_pairs) / len(made) < 0.5


def test_held_out_looks_are_few_and_leave_every_word_to_training() -> None:
    looks = [(k, c, b) for k in range(len(KINDS)) for c in range(len(COLOURS)) for b in range(len(COLOURS)) if b != c]
    kept = [look for look in looks if is_held_out(*look)]
    assert len(kept) < 0.2 * len(looks)
    trained = set(looks) - set(kept)
    assert len({(k, c) for k, c, _ in trained}) == len(KINDS) * len(COLOURS) - len(NEW_PAIRS)
    assert len({(k, b) for k, _, b in trained}) > 0.97 * len(KINDS) * len(COLOURS)


def test_things_of_a_scene_lie_in_cells_of_their_own_in_reading_order(rng: Random) -> None:
    for make in (scene, new_scene):
        for _ in range(1000):
            things = make(rng).things
            assert [t.cell for t in things] == sorted({t.cell for t in things})
            assert all(t.kind < len(SHAPES) for t in things) or len(things) <= 3


@pytest.mark.parametrize("chinese", [False, True])
def test_claims_read_back_what_a_caption_says(rng: Random, *, chinese: bool) -> None:
    for _ in range(500):
        shown = new_scene(rng)
        found = attributes(shown, chinese=chinese)
        told = list(shown.things) if shown.told_one_by_one else [thing for _, thing in shown.groups]
        per_thing = 5 if shown.told_one_by_one else 4
        assert len(found) == len(set(found)) == per_thing * len(told) + 1
        for index, thing in enumerate(told):
            kind, colour = KINDS[thing.kind], COLOURS[thing.colour]
            assert f"kind {index} {kind.zh if chinese else kind.en}" in found
            assert f"colour {index} {colour.zh if chinese else colour.en}" in found
            if shown.told_one_by_one:
                assert f"place {index} {CELLS[thing.cell].zh if chinese else CELLS[thing.cell].en}" in found


def test_claims_of_other_text_are_none() -> None:
    assert claims("I do not know that.", chinese=False) == claims("我不知道。", chinese=True) == []
    assert caption(Scene(None), chinese=True) == NOTHING_KNOWN[1]


def test_captions_in_both_languages() -> None:
    shown = Scene(9, (Thing(0, 0, 1, 0), Thing(3, 5, 0, 5)))
    assert caption(shown, chinese=False) == (
        "The picture shows a large red circle at the top left and a small purple star on the right, "
        "on a white background."
    )
    assert caption(shown, chinese=True) == "图中左上角有一个大的红色圆形，右边有一个小的紫色五角星，背景是白色的。"
    many = Scene(8, tuple(Thing(1, 4, 0, cell) for cell in range(5)))
    assert caption(many, chinese=False) == "The picture shows five small blue squares, on a black background."
    assert caption(many, chinese=True) == "图中有五个小的蓝色正方形，背景是黑色的。"


def test_every_kind_of_question_has_its_answer(rng: Random) -> None:
    shown = Scene(9, (Thing(0, 0, 1, 0), Thing(8 + 7, 5, 0, 5)))
    draws = range(250)  # one answer in eight is missing with a chance of 3e-15
    answers = {kind: {ask(rng, shown, chinese=False, kinds=(kind,)).answer for _ in draws} for kind in MAKERS}
    assert answers["colour"] == {"The circle is red.", "The digit 7 is purple."}
    assert answers["where"] == {"The red circle is at the top left.", "The purple digit 7 is on the right."}
    assert answers["digit"] == {"The digit is 7."}
    assert answers["background"] == {"The background is white."}
    assert "There are two objects." in answers["count"]
    relations = {"Yes, the circle is to the left of the digit 7.", "Yes, the digit 7 is below the circle."}
    assert answers["relation"] >= relations
    begins = ("Yes, there is a red circle", "Yes, there is a purple digit 7", "No, there is no ")
    assert all(answer.startswith(begins) for answer in answers["exists"])


def test_negative_questions_of_training_never_name_a_held_out_pair(rng: Random) -> None:
    pairs = [f"{colour} {kind}" for kind, colour in NEW_PAIRS]
    for _ in range(3000):
        shown = scene(rng)
        if shown.things:
            asked = ask(rng, shown, chinese=False, kinds=("exists", "count"))
            assert not any(f"{pair}." in asked.answer for pair in pairs)


def test_outlines_are_negative_inside_and_reach_no_further_than_their_square() -> None:
    table = distances()[:, 0]
    assert table.shape[0] == len(KINDS)
    assert (table.amin(dim=(1, 2)) < -0.1).all()
    edge = torch.cat([table[:, 0], table[:, -1], table[:, :, 0], table[:, :, -1]], dim=1)
    assert (edge > 0.1).all()


def test_pictures_show_the_right_colour_in_the_right_cell(rng: Random) -> None:
    cell = rng.randrange(9)
    pixels = np.asarray(picture(Scene(9, (Thing(1, 0, 1, cell),)), rng.getrandbits(30)), dtype=int)
    y, x = (SIDE * (2 * (cell // 3) + 1) // 6), (SIDE * (2 * (cell % 3) + 1) // 6)
    red, green, blue = pixels[y, x]
    assert red > 170
    assert max(green, blue) < 60
    red_pixels = (pixels[..., 0] > 150) & (pixels[..., 1] < 100)
    assert 0.03 < red_pixels.mean() < 0.11
    other = pixels[(y + SIDE // 3) % SIDE, (x + SIDE // 3) % SIDE]
    assert other.min() > 220


def test_pictures_repeat_with_their_seed_and_differ_otherwise(rng: Random) -> None:
    shown = new_scene(rng)
    first, again, other = (picture(shown, seed) for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert picture(shown, 5, side=300).size == (300, 300)


def test_draw_takes_many_scenes_of_all_kinds(rng: Random) -> None:
    scenes = [Scene(None), Scene(3), Scene(8, (Thing(2, 9, HUGE, 4),)), *(scene(rng) for _ in range(9))]
    pixels = draw(*encode_scenes(scenes), torch.Generator().manual_seed(rng.getrandbits(40)))
    assert pixels.shape == (12, 3, SIDE, SIDE)
    assert (pixels == pixels.round()).all()
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    assert pixels[0].std() > 5 > pixels[1].std(dim=(1, 2)).max()


def test_rows_learn_answers_and_keep_pictures_whole(rng: Random) -> None:
    tokenizer = Tokenizer.from_file(str(_TOKENIZER))
    chats = [conversation(rng, turns=4, pictures=index % 3) for index in range(60)]
    for chat, row in zip(chats, tokenised(tokenizer, chats), strict=True):
        assert row.ids.count(LANGUAGE.vocab - 1) == IMAGE_TOKENS * len(row.scenes)
        text = tokenizer.decode([i for i in row.ids if i != LANGUAGE.vocab - 1], skip_special_tokens=False)
        assert text.startswith("<s>")
        assert text.count("</s>") == len(chat.turns)
        learned = [token for token, on in zip(row.ids, row.learned, strict=True) if on]
        taught = tokenizer.decode(learned, skip_special_tokens=False)
        for turn, said in zip(chat.turns, taught.split("</s>"), strict=False):
            assert said == turn.answer if not turn.spaced else turn.answer.endswith(said)


def test_batches_have_one_size_and_next_tokens_as_targets() -> None:
    for batch in islice(PictureStream(_TOKENIZER, seed=7, tokens_per_batch=1536), 12):
        rows = 1536 // batch.row_length
        assert batch.codes.shape[0] == rows * (1 if batch.row_length == 192 else 3)
        assert batch.slots.numel() == batch.codes.shape[0] * IMAGE_TOKENS
        assert (batch.tokens[batch.slots] == LANGUAGE.vocab - 1).all()
        kept = batch.targets != IGNORED
        assert (batch.tokens[batch.positions[kept] + 1] == batch.targets[kept]).all()
        assert ((batch.positions[kept] + 1) % batch.row_length != 0).all(), "a target never lies in the next row"


def test_a_tokenizer_of_the_folder_keeps_any_text() -> None:
    tokenizer = Tokenizer.from_file(str(_TOKENIZER))
    for text in ("描述这张图片，😀 naïve\t\n", "USER: <image>\nWhat?"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert Path(_TOKENIZER).stat().st_size < 100_000


def test_scene_of_reads_captions_back_and_refuses_the_rest(rng: Random) -> None:
    for _ in range(200):
        shown = new_scene(rng)
        if shown.told_one_by_one and all(thing.size < HUGE for thing in shown.things):
            assert scene_of(caption(shown, chinese=False)) == shown
    for text in ("a tiger", "a large red circle, on a white background", "a small red star on the left"):
        with pytest.raises(ConfigError, match="no scene"):
            scene_of(text)
