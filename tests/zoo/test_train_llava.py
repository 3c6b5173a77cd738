"""A tiny run trains, writes and repeats itself; files are transformers' LLaVA; the evaluation is apart."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from lmcourse.bundled import model_path
from lmcourse.zoo import evaluate_llava
from lmcourse.zoo.card import card_table
from lmcourse.zoo.evaluate_llava import evaluate, instances, wordings
from lmcourse.zoo.pictures.calibration import calibration_text
from lmcourse.zoo.pictures.conversation import conversation
from lmcourse.zoo.pictures.draw import picture
from lmcourse.zoo.pictures.files import load_llava, save_processor
from lmcourse.zoo.pictures.model import TrainableLlava
from lmcourse.zoo.pictures.questions import MAKERS
from lmcourse.zoo.pictures.scene import new_scene
from lmcourse.zoo.texts_reader import frames
from lmcourse.zoo.train_llava import Plan, train

_FOLDER = model_path("tiny-llava")


def _plan(out: Path, *, steps: int | None = None, minutes: float = 5.0) -> Plan:
    small = Plan(out=out, device="cpu", workers=0, tokens_per_batch=768, report_seconds=1e9, checks=2, views=1)
    return replace(small, steps=steps, minutes=minutes)


def test_train_two_steps_write_a_model_and_repeat(tmp_path: Path) -> None:
    losses = []
    for name in ("one", "two"):
        out = tmp_path / name
        out.mkdir()
        (out / "tokenizer.json").write_bytes((_FOLDER / "tokenizer.json").read_bytes())
        losses.append(train(_plan(out, steps=2), log=lambda line: None)[-1]["loss"])
        model = TrainableLlava(seed=0)
        model.load_state_dict(load_llava(out, list(model.state_dict())))
        assert json.loads((out / "training.json").read_text())[-1]["step"] == 2
        assert json.loads((out / "config.json").read_text()) == json.loads((_FOLDER / "config.json").read_text())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_save_processor_writes_the_bundled_files(tmp_path: Path) -> None:
    save_processor(Tokenizer.from_file(str(_FOLDER / "tokenizer.json")), tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (_FOLDER / path.name).read_bytes(), path.name


def test_a_run_stops_and_saves_when_its_minutes_are_over(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((_FOLDER / "tokenizer.json").read_bytes())
    assert train(_plan(tmp_path, minutes=0.02), log=lambda line: None)[-1]["step"] < 50
    assert (tmp_path / "model.safetensors").exists()


def test_trained_weights_give_transformers_logits() -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    theirs, info = LlavaForConditionalGeneration.from_pretrained(_FOLDER, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    processor = AutoProcessor.from_pretrained(_FOLDER)
    messages = [{"role": "user", "content": [{"type": "text", "text": "describe this image"}, {"type": "image"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == "USER: <image>\ndescribe this image ASSISTANT:"
    shown = picture(new_scene(Random(8)), 3)
    inputs = processor(text=prompt, images=shown, return_tensors="pt")
    ours = TrainableLlava(seed=0).eval()
    ours.load_state_dict(load_llava(_FOLDER, list(ours.state_dict())))
    ids = inputs.input_ids[0]
    assert (ids == 1023).sum() == 64
    flat = torch.frombuffer(bytearray(shown.tobytes()), dtype=torch.uint8)
    pixels = flat.view(1, 128, 128, 3).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = theirs(**inputs).logits[0]
        hidden = ours(ids, len(ids), pixels, (ids == 1023).nonzero().squeeze(1))
        torch.testing.assert_close(ours.language.output(hidden), expected, atol=1e-4, rtol=0)


def test_training_never_imports_the_evaluation(zoo_modules_of: Callable[[str], set[str]]) -> None:
    used = zoo_modules_of("lmcourse.zoo.train_llava")
    assert "lmcourse.zoo.pictures.questions" in used, "the walk over imports is broken"
    assert "lmcourse.zoo.evaluate_llava" not in used
    for name in used - {"lmcourse.zoo"}:
        path = Path(evaluate_llava.__file__).parent / name.removeprefix("lmcourse.zoo.").replace(".", "/")
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        assert "heldout_pictures" not in text, name


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.replace("<image>", "")).strip().lower()


def test_evaluation_questions_are_never_training_questions() -> None:
    rng = Random(71)
    trained = {_plain(turn.question) for _ in range(3000) for turn in conversation(rng, turns=5, pictures=1).turns}
    asked = {_plain(one.question) for task in ("describe", "questions") for one in instances(task, 400)}
    assert asked & trained <= {"describe this image", "描述这张图片"}, "the lesson's own words are in both"


def test_every_kind_of_question_has_wordings_on_both_sides() -> None:
    for kind in MAKERS:
        for language in ("en", "zh"):
            assert wordings(f"{kind}_{language}")
            assert frames("pictures")[f"{kind}_{language}"]


def test_evaluate_gives_full_marks_to_the_right_answers_and_few_to_others() -> None:
    asked = [one for task in ("describe", "questions") for one in instances(task, 25)]
    expected = {(one.question, picture(one.scene, one.seed).tobytes()): one.expected for one in asked}
    right = evaluate(lambda asked: [expected[question, shown.tobytes()] for question, shown in asked], 25)
    assert [row["accuracy"] for row in right.values()] == [1.0, 1.0]
    same = "The picture shows a small red circle at the top, on a red background."
    wrong = evaluate(lambda asked: [same] * len(asked), 25)
    assert max(row["accuracy"] for row in wrong.values()) < 0.5
    assert wrong["questions"]["failures"]


def test_instances_repeat_and_show_held_out_scenes() -> None:
    assert instances("questions", 30) == instances("questions", 40)[:30]


def test_the_bundled_model_is_small_and_its_card_holds_the_evaluation() -> None:
    assert sum(path.stat().st_size for path in _FOLDER.iterdir()) <= 10_000_000
    results = json.loads((_FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    card = (_FOLDER / "README.md").read_text(encoding="utf-8")
    assert card_table(results) in card
    for task in ("describe", "questions"):
        exact = results["tasks"][task]["accuracy"]
        assert exact >= 0.95
        for form in ("kv8", "w4a16"):
            assert results[form][task]["accuracy"] >= exact - 0.01


def test_calibration_text_is_of_conversations_without_pictures() -> None:
    text = calibration_text(20)
    assert text.count("USER: ") == text.count("</s>") == 120
    assert "<image>" not in text
    assert text == calibration_text(20) != calibration_text(20, seed=100)
