"""The lesson's demo: a picture and a question in, an answer out, as a page of one form.

    demo = picture_demo(pipe)           a gradio Interface; demo.launch() in a script
    picture_page(pipe)                  the same as an app, for `lmcourse serve gradio --vl` and for a notebook's cell

The original's function returned (question, answer) pairs; today's gradio wants messages, which is all that changes.

Lesson: 6 (a page for pictures)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from lmcourse.config import GenerationConfig
from lmcourse.errors import LmcourseError
from lmcourse.serve.web import mount_page, require_gradio

if TYPE_CHECKING:
    from lmcourse.serve.proxy import ForwardedPrefix

__all__ = ["Seer", "picture_demo", "picture_page"]

_NO_PICTURE = "请先放入一张图片。 Please put a picture in first."


class Seer(Protocol):
    """What the page needs of a pipeline or client."""

    def __call__(self, prompts: Any, gen_config: GenerationConfig | None = None) -> Any: ...


def picture_demo(seer: Seer, *, title: str = "", longest_answer: int = 512) -> Any:
    """The form: a picture, a question, the answer below."""
    require_gradio()
    import gradio

    return gradio.Interface(
        fn=_answering(seer, GenerationConfig(max_new_tokens=longest_answer)),
        inputs=[gradio.Image(type="pil", label="Picture"), gradio.Textbox(label="Question")],
        outputs=gradio.Chatbot(label="Answer"),
        title=title or None,
        flagging_mode="never",
        analytics_enabled=False,
    )


def picture_page(seer: Seer, *, title: str = "", longest_answer: int = 512) -> ForwardedPrefix:
    """The demo as an ASGI app that finds its own place behind a proxy. Closing the seer is the caller's."""
    return mount_page(picture_demo(seer, title=title, longest_answer=longest_answer))


def _answering(seer: Seer, gen: GenerationConfig) -> Callable[[Any, str], list[dict[str, str]]]:
    def answer(picture: Any, question: str) -> list[dict[str, str]]:
        said = _NO_PICTURE if picture is None else _ask(seer, question, picture, gen)
        return [{"role": "user", "content": question}, {"role": "assistant", "content": said}]

    return answer


def _ask(seer: Seer, question: str, picture: Any, gen: GenerationConfig) -> str:
    try:
        text: str = seer((question, picture), gen).text
    except LmcourseError as error:
        return str(error)
    return text
