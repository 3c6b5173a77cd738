"""Draws images/architecture.svg: one request on its way through the engine. Run it after changing it; a test compares.

python images/draw_architecture.py
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1000, 560
INK, PAPER, LINE = "#1f2937", "#ffffff", "#64748b"
BLUE, GREEN, AMBER, ROSE, GREY = "#dbeafe", "#dcfce7", "#fef3c7", "#ffe4e6", "#f1f5f9"
REQUESTS = {"A": "#3b82f6", "B": "#f59e0b", "C": "#10b981"}
BLOCKS = "AABAACBCA.BC."  # owner of each KV block; a dot is a free one


def box(place: tuple[int, int, int, int], title: str, below: str, fill: str) -> str:
    """A rounded box at (x, y, width, height) with a bold title and one line of smaller text."""
    x, y, width, height = place
    middle = x + width / 2
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{LINE}"/>'
        f'<text x="{middle}" y="{y + height / 2 - 3}" class="title">{escape(title)}</text>'
        f'<text x="{middle}" y="{y + height / 2 + 15}" class="small">{escape(below)}</text>'
    )


def arrow(points: str, label: str = "", at: tuple[int, int] = (0, 0)) -> str:
    """A polyline with a head at its end, and a label."""
    text = f'<text x="{at[0]}" y="{at[1]}" class="small">{escape(label)}</text>' if label else ""
    return f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="1.6" marker-end="url(#head)"/>{text}'


def kv_blocks(x: int, y: int) -> str:
    """The KV cache as a row of blocks, each in the colour of the request that owns it."""
    cells = []
    for n, owner in enumerate(BLOCKS):
        left = x + n * 27
        fill = REQUESTS.get(owner, PAPER)
        cells.append(f'<rect x="{left}" y="{y}" width="23" height="26" rx="3" fill="{fill}" stroke="{LINE}"/>')
        if owner != ".":
            cells.append(f'<text x="{left + 11.5}" y="{y + 18}" class="owner">{owner}</text>')
    return "".join(cells)


def drawing() -> str:
    """The whole picture."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="A prompt goes from pipeline() to the engine, whose step schedules, batches, runs the model over '
        'the paged KV cache and samples; the answer comes back the same way.">'
        f"<style>text{{font-family:Helvetica,Arial,sans-serif;fill:{INK};text-anchor:middle}}"
        ".title{font-size:15px;font-weight:bold}.small{font-size:12px}.owner{font-size:13px;font-weight:bold;fill:#fff}"
        f".floor{{font-size:13px;font-weight:bold;fill:{LINE};text-anchor:start}}</style>"
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>'
    )
    front = [
        box((20, 24, 190, 56), "notebook", "lessons 1, 2, …", GREY),
        box((20, 96, 190, 56), "lmcourse chat", "a terminal", GREY),
        box((20, 168, 190, 56), "your script", "from lmcourse import pipeline", GREY),
        arrow("210,52 240,52 240,124 268,124"),
        arrow("210,124 268,124"),
        arrow("210,196 240,196 240,124 268,124"),
        box((270, 96, 190, 56), "Pipeline", "text in, Response out", BLUE),
        box((540, 24, 200, 56), "chat template, tokenizer", "messages → text → token ids", GREEN),
        arrow("460,110 500,110 500,52 538,52"),
        arrow("460,138 528,138 528,182", "token ids", (488, 158)),
    ]
    engine = [
        f'<rect x="20" y="252" width="960" height="196" rx="12" fill="none" stroke="{LINE}" stroke-dasharray="6 5"/>',
        '<text x="136" y="275" class="floor">Engine.step, again and again until every request is done</text>',
        box((460, 184, 190, 46), "waiting requests", "A, B, C, …", AMBER),
        arrow("528,230 528,242 121,242 121,288"),
        box((40, 290, 162, 56), "Scheduler", "who runs this step → Plan", AMBER),
        box((228, 290, 162, 56), "make_batch", "Plan → ragged Batch", AMBER),
        box((416, 290, 162, 56), "ModelRunner", "Batch → logits", AMBER),
        box((604, 290, 162, 56), "sample", "logits → one token each", AMBER),
        box((792, 290, 162, 56), "answer", "stop? text? → StepOutput", AMBER),
        *(arrow(f"{x},318 {x + 24},318") for x in (202, 390, 578, 766)),
        arrow("873,346 873,424 121,424 121,348", "not finished: one token more to compute", (300, 417)),
        arrow("954,318 992,318 992,10 365,10 365,94", "Response", (420, 24)),
    ]
    below = [
        box((416, 366, 162, 44), "Decoder", "layers of attention and MLP", BLUE),
        arrow("497,346 497,364"),
        box((770, 484, 200, 56), "checkpoint", "HF or engine format → weights", GREEN),
        arrow("830,484 830,388 580,388"),
        arrow("497,410 497,482"),
        box((416, 484, 162, 56), "kernels", "attention, norms, rotary, …", ROSE),
        '<text x="40" y="488" class="floor">KV cache: blocks of 64 tokens, owned by requests</text>',
        kv_blocks(40, 499),
        arrow("416,512 394,512"),
    ]
    return head + "".join([*front, *engine, *below]) + "</svg>\n"


if __name__ == "__main__":
    Path(__file__).with_name("architecture.svg").write_text(drawing(), encoding="utf-8")
