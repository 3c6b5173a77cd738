"""Scores any model that sees on held-out scenes: what its descriptions claim, and its answers to questions.

    python -m lmcourse.zoo.evaluate_llava --model tiny-llava --instances 500 --out RESULT.json

`evaluate(answer, instances)` asks `answer` with (question, picture) pairs and expects greedy answers. Every scene shows
something as training never showed it; wordings and seed come from heldout_pictures.txt.
Lesson: 6 (a model that sees)
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lmcourse.bundled import model_path
from lmcourse.zoo.pictures.captions import attributes, claims
from lmcourse.zoo.pictures.draw import picture
from lmcourse.zoo.pictures.questions import MAKERS, ask
from lmcourse.zoo.pictures.scene import Scene, is_new_pair, new_scene
from lmcourse.zoo.texts_reader import sections
from lmcourse.zoo.wording import fill

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Answer", "Instance", "evaluate", "instances", "main", "table", "wordings"]

Answer = Callable[[list[tuple[str, "Image"]]], list[str]]
_QUESTIONS = tuple(kind for kind in MAKERS if kind != "describe")
_FILE = Path(__file__).with_name("heldout_pictures.txt")
_SHOWN_FAILURES = 8


@dataclass(frozen=True)
class Instance:
    """A scene, the seed of its drawing, a question and its answer, and the groups that it is counted in."""

    scene: Scene
    seed: int
    question: str
    expected: str
    groups: tuple[str, ...]
    chinese: bool


def wordings(section: str) -> tuple[str, ...]:
    """The held-out wordings of one kind of question in one language, such as "count_en"."""
    return sections(_FILE.read_text(encoding="utf-8"))[section]


def instances(task: str, count: int) -> list[Instance]:
    """The first `count` instances of "describe" or "questions"; the same ones everywhere."""
    rng, made = Random(f"{wordings('seed')[0]} {task}"), []
    for _ in range(count):
        scene, chinese = new_scene(rng), rng.random() < 0.5
        asked = ask(rng, scene, chinese=chinese, kinds=("describe",) if task == "describe" else _QUESTIONS)
        language = "zh" if chinese else "en"
        question = fill(rng.choice(wordings(f"{asked.kind}_{language}")), **asked.holes)
        new_pair = any(is_new_pair(thing.kind, thing.colour) for thing in scene.things)
        groups, seed = (asked.kind, language, "new pair" if new_pair else "new triple"), rng.getrandbits(40)
        made.append(Instance(scene, seed, question, asked.answer, groups, chinese))
    return made


def _marks(task: str, one: Instance, answer: str) -> tuple[int, int]:
    """(right, all): attributes of a description, or one answer; what is claimed too much counts as wrong."""
    if task == "questions":
        return int(answer.strip() == one.expected), 1
    expected, got = attributes(one.scene, chinese=one.chinese), claims(answer, chinese=one.chinese)
    return len(set(expected) & set(got)), max(len(expected), len(got))


def _score(task: str, asked: list[Instance], answers: list[str]) -> dict[str, Any]:
    groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
    failures = []
    for one, answer in zip(asked, answers, strict=True):
        right, of = _marks(task, one, answer)
        for name in ("all", *one.groups):
            groups[name].append((right, of))
        if right < of:
            failures.append({"asked": one.question, "expected": one.expected, "answered": answer.strip()[:300]})
    shares = {name: sum(r for r, _ in marks) / sum(of for _, of in marks) for name, marks in sorted(groups.items())}
    whole = sum(r == of for r, of in groups["all"]) / len(asked)
    return {
        "accuracy": round(shares.pop("all"), 4),
        "whole_answers": round(whole, 4),
        "instances": len(asked),
        "groups": {name: round(share, 4) for name, share in shares.items()},
        "failures": failures[:_SHOWN_FAILURES],
    }


def evaluate(answer: Answer, count: int, tasks: tuple[str, ...] = ("describe", "questions")) -> dict[str, Any]:
    """Per task: share of right attributes (describe) or answers (questions), by group, with some of the failures."""
    results = {}
    for task in tasks:
        asked = instances(task, count)
        results[task] = _score(task, asked, answer([(one.question, picture(one.scene, one.seed)) for one in asked]))
    return results


def table(results: dict[str, Any]) -> str:
    """The results as lines of text: task, accuracy in percent, instances, groups."""
    lines = []
    for task, row in results.items():
        groups = " ".join(f"{name} {value:.3f}" for name, value in row["groups"].items())
        lines.append(f"{task:<10} {100 * row['accuracy']:6.2f} %  {row['instances']:6d}  {groups}")
    return "\n".join(lines)


def _trained(folder: Path, device: str) -> Answer:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor

    from lmcourse.zoo.pictures.files import load_llava
    from lmcourse.zoo.pictures.model import SeeingModel, TrainableLlava

    model = TrainableLlava(seed=0)
    model.load_state_dict(load_llava(folder, list(model.state_dict())))
    ask_model = SeeingModel(model.to(torch.device(device)).eval(), Tokenizer.from_file(str(folder / "tokenizer.json")))

    def pixels(shown: list[Image]) -> Tensor:
        rows = [torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8) for one in shown]
        flat = torch.stack(rows).view(len(shown), shown[0].height, shown[0].width, 3)
        return flat.permute(0, 3, 1, 2).float().to(device)

    @torch.inference_mode()
    def answer(asked: list[tuple[str, Image]]) -> list[str]:
        prompts = [f"<s>USER: <image>\n{question} ASSISTANT:" for question, _ in asked]
        return ask_model(prompts, pixels([image for _, image in asked]))

    return answer


def main() -> None:
    """Command line: evaluates the weights as exported, computed in float32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-llava", help="folder or bundled name (default tiny-llava)")
    parser.add_argument("--instances", type=int, default=500, help="instances a task (default 500)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    arguments = parser.parse_args()
    folder = Path(arguments.model)
    folder = folder if folder.is_dir() else model_path(arguments.model)
    answer = _trained(folder, arguments.device)
    results = evaluate(answer, arguments.instances)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(table(results), flush=True)  # noqa: T201 (a script's result)


if __name__ == "__main__":
    main()
