"""The chat page's layout and events, in gradio. What an answer is, and how it is stopped, is web.py's.

Imported only when a page is made, so that nothing else needs gradio. With a model that takes pictures there is a box
for one beside the message.

Lesson: 5 (the web client)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from lmcourse.errors import LmcourseError
from lmcourse.serve.web import Answers, Settings, Turn, plain_text

__all__ = ["make_page", "page_theme"]

_CSS = """
.gradio-container {width: 100% !important; max-width: 60rem !important; margin: 0 auto !important}
footer {display: none !important}
#status {min-height: 1.5rem; opacity: 0.75}
"""
_FORMULAS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "\\[", "right": "\\]", "display": True},
]
_Update = tuple[Any, Any, Any, Any]  # conversation, line below it, the stop button, a message that got no answer


def page_theme() -> dict[str, Any]:
    """Looks, with fonts that the reader's machine has: gradio's own theme fetches some from elsewhere."""
    theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": _CSS, "footer_links": []}


def make_page(answers: Answers, *, title: str, longest_answer: int, takes_pictures: bool = False) -> gr.Blocks:
    """Conversation, message, picture, buttons, sampling."""
    page = gr.Blocks(title="lmcourse", analytics_enabled=False, fill_height=True)
    with page:
        gr.Markdown(f"### {title}")
        chat = gr.Chatbot(
            show_label=False, height="55vh", buttons=["copy"], feedback_options=None, latex_delimiters=_FORMULAS,
            placeholder="Write below; Enter sends.",
        )  # fmt: skip
        status = gr.Markdown("", elem_id="status")
        with gr.Row():
            picture = _make_picture_box(visible=takes_pictures)
            message = gr.Textbox(show_label=False, placeholder="Your message", scale=8, autofocus=True, max_lines=8)
            send = gr.Button("Send", variant="primary", min_width=90)
        with gr.Row():
            stop = gr.Button("Stop", interactive=False, min_width=90)
            again = gr.Button("Regenerate", min_width=90)
            clear = gr.Button("New conversation", min_width=90)
        sliders = _make_sliders(longest_answer)
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        unanswered = gr.State("")
        shown = [chat, status, stop, unanswered]
        answering = {"fn": _answering(answers), "inputs": [chat, *sliders], "outputs": shown, **quiet}
        give_back = {"fn": _give_back, "inputs": [unanswered], "outputs": [message], "queue": False, **quiet}
        taking = {
            "fn": _taking(answers),
            "inputs": [message, picture, chat],
            "outputs": [message, picture, chat],
            "queue": False,
            **quiet,
        }
        for trigger in (message.submit, send.click):
            trigger(**taking).then(**answering).then(**give_back)
        again.click(_drop_answer, [chat], [chat], queue=False, **quiet).then(**answering).then(**give_back)
        stop.click(_stopping(answers), None, None, queue=False, **quiet)
        started_over = clear.click(_stopping(answers), None, None, queue=False, **quiet)
        started_over.then(lambda: ([], ""), None, [chat, status], queue=False, **quiet)
        chat.clear(_stopping(answers), None, None, queue=False, **quiet)
        page.unload(_stopping(answers))
    return page


def _make_picture_box(*, visible: bool) -> gr.Image:
    """For one picture, which goes out with the next message."""
    return gr.Image(
        type="filepath",
        image_mode=None,
        label="Picture",
        height=140,
        scale=2,
        sources=["upload", "clipboard"],
        visible=visible,
    )


def _make_sliders(longest_answer: int) -> list[gr.Slider]:
    """In the order of Settings."""
    with gr.Accordion("Sampling", open=False), gr.Row():
        return [
            gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info="0: greedy, always the same answer"),
            gr.Slider(0.05, 1, value=1, step=0.05, label="Top p", info="draw from the likeliest with this share"),
            gr.Slider(
                1, longest_answer, value=min(512, longest_answer), step=1, label="Longest answer", info="in tokens"
            ),
        ]


def _taking(answers: Answers) -> Callable[..., tuple[Any, Any, Any]]:
    def take(message: str, picture: str | None, turns: list[Turn], request: gr.Request) -> tuple[Any, Any, Any]:
        if answers.is_running(str(request.session_hash)):
            gr.Info("An answer is still coming. Stop ends it.", duration=3)
            return gr.skip(), gr.skip(), gr.skip()
        if not message.strip():
            return "", gr.skip(), gr.skip()
        content = message if picture is None else [{"path": picture}, message]
        return "", None, [*turns, {"role": "user", "content": content}]

    return take


def _drop_answer(turns: list[Turn]) -> list[Turn]:
    """The conversation up to the last thing that the user said."""
    while turns and turns[-1]["role"] != "user":
        turns = turns[:-1]
    return turns


def _give_back(unanswered: str) -> Any:
    return unanswered or gr.skip()


def _answering(answers: Answers) -> Callable[..., Iterator[_Update]]:
    def answer(
        turns: list[Turn], temperature: float, top_p: float, longest: float, request: gr.Request
    ) -> Iterator[_Update]:
        settings = Settings(temperature, top_p, int(longest))
        running, idle = gr.Button(interactive=True), gr.Button(interactive=False)
        session, text, status = str(request.session_hash), "", ""
        if answers.is_running(session) or not turns or turns[-1]["role"] != "user":
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        try:
            yield turns, "…", running, ""
            for text, status in answers.answer(turns, settings, session):
                yield [*turns, {"role": "assistant", "content": text}], status, running, ""
        except LmcourseError as error:
            gr.Warning(str(error).replace("\n", "<br>"), duration=None, title="No answer")
            yield turns[:-1], "not answered; the message is back in the box", idle, plain_text(turns[-1]["content"])
            return
        yield [*turns, {"role": "assistant", "content": text}], status, idle, ""

    return answer


def _stopping(answers: Answers) -> Callable[[gr.Request], None]:
    def stop(request: gr.Request) -> None:
        answers.stop(str(request.session_hash))

    return stop
