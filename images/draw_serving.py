"""Draws images/serving.svg: clients, API server and engine, and the ways to put them into processes. A test compares.

python images/draw_serving.py
"""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.sax.saxutils import escape

SHAPES = runpy.run_path(str(Path(__file__).with_name("draw_architecture.py")))
INK, PAPER, LINE, BLUE, GREEN, AMBER, GREY = (
    SHAPES[name] for name in ("INK", "PAPER", "LINE", "BLUE", "GREEN", "AMBER", "GREY")
)
box, arrow = SHAPES["box"], SHAPES["arrow"]
WIDTH, HEIGHT = 1000, 560
COLUMNS = ((20, 280), (370, 270), (710, 270))  # x and width of client, API server, engine
LAYOUTS = (
    ("one process: lmcourse chat, pipeline(...), serve gradio MODEL", ((0, 2, "client + engine, no server"),), ()),
    ("two: lmcourse serve api_server, and any client", ((0, 0, "client"), (1, 2, "server + engine")), ("HTTP",)),
    ("three: TurboMind behind Triton Inference Server", ((0, 0, "client"), (1, 1, "server"), (2, 2, "engine")),
     ("HTTP", "gRPC")),
)  # fmt: skip


def heading(column: int, text: str) -> str:
    """The name of a column."""
    x, width = COLUMNS[column]
    return f'<text x="{x + width / 2}" y="30" class="head">{escape(text)}</text>'


def frame(column: int, height: int) -> str:
    """A dashed frame around a column's boxes."""
    x, width = COLUMNS[column]
    return (
        f'<rect x="{x}" y="44" width="{width}" height="{height}" rx="12" fill="none" stroke="{LINE}" '
        'stroke-dasharray="6 5"/>'
    )


def layout(row: int) -> str:
    """One way to divide the three into processes: a bar per process, and what they speak between them."""
    title, processes, between = LAYOUTS[row]
    y = 408 + row * 50
    parts = [f'<text x="20" y="{y - 4}" class="note">{escape(title)}</text>']
    for first, last, text in processes:
        left, right = COLUMNS[first][0], COLUMNS[last][0] + COLUMNS[last][1]
        parts.append(
            f'<rect x="{left}" y="{y}" width="{right - left}" height="22" rx="6" fill="{GREY}" stroke="{LINE}"/>'
            f'<text x="{(left + right) / 2}" y="{y + 15}" class="small">{escape(text)}</text>'
        )
    for gap, word in enumerate(between):
        left, right = sum(COLUMNS[gap]), COLUMNS[gap + 1][0]
        parts.append(f'<text x="{(left + right) / 2}" y="{y + 15}" class="small">{word}</text>')
    return "".join(parts)


def drawing() -> str:
    """The whole picture."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Clients send JSON over HTTP to the API server, which turns it into tokens for the engine and '
        'streams text back. Client, server and engine can share processes in three ways.">'
        f"<style>text{{font-family:Helvetica,Arial,sans-serif;fill:{INK};text-anchor:middle}}"
        ".title{font-size:15px;font-weight:bold}.small{font-size:12px}.head{font-size:17px;font-weight:bold}"
        f".note{{font-size:12px;text-anchor:start;fill:{LINE}}}</style>"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>'
    )
    clients = [
        heading(0, "Client"),
        frame(0, 310),
        box((40, 57, 240, 48), "curl", "one request, by hand", GREY),
        box((40, 116, 240, 48), "openai package", "any program written for OpenAI", GREY),
        box((40, 175, 240, 48), "Client(url)", "the pipeline's interface, over HTTP", GREY),
        box((40, 234, 240, 48), "serve api_client", "a terminal", GREY),
        box((40, 293, 240, 48), "serve gradio", "a page for browsers", GREY),
    ]
    server = [
        heading(1, "API server"),
        frame(1, 310),
        box((390, 64, 230, 50), "guard", "key, size, content type", AMBER),
        box((390, 130, 230, 50), "JSON → tokens", "template, tokenizer, limits", AMBER),
        box((390, 196, 230, 50), "queue", "full: 429, come back later", AMBER),
        box((390, 284, 230, 50), "tokens → events", "data: {…} one by one, data: [DONE]", AMBER),
        arrow("505,114 505,128"),
        arrow("505,180 505,194"),
    ]
    engine = [
        heading(2, "Engine"),
        frame(2, 310),
        box((730, 64, 230, 50), "scheduler", "who runs in this step", BLUE),
        box((730, 130, 230, 50), "one batch", "everybody's next token at once", BLUE),
        box((730, 196, 230, 50), "KV cache", "blocks, owned by requests", GREEN),
        box((730, 284, 230, 50), "step outputs", "a token for each request", BLUE),
        arrow("845,114 845,128"),
        arrow("845,180 845,194"),
        arrow("845,246 845,282"),
    ]
    between = [
        arrow("300,89 388,89", "HTTP, JSON", (335, 82)),
        arrow("388,309 302,309", "events", (335, 302)),
        arrow("620,221 654,221 654,89 728,89", "token ids", (684, 82)),
        arrow("730,309 622,309", "tokens", (676, 302)),
    ]
    return head + "".join([*clients, *server, *engine, *between, *map(layout, range(len(LAYOUTS)))]) + "</svg>\n"


if __name__ == "__main__":
    Path(__file__).with_name("serving.svg").write_text(drawing(), encoding="utf-8")
