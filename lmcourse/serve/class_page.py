"""The page at /class/view: everything in one file, no address but a relative one; its script asks ../class each second.

The key is typed into the page and kept in its memory: not in the address, a cookie or the browser's storage. Hatches,
letters and numbers say all; colour only helps. Whatever the server names is put in as text, never as markup.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

from html import escape

from lmcourse.serve.class_script import SCRIPT

__all__ = ["HEADERS", "make_class_page"]

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; form-action 'none'; base-uri 'none'",
}

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --ink: #111; --fill: #9ab; --paper: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --fill: #567; --paper: #1c1c1c } }
body { font: clamp(13px, 1.05vw, 22px)/1.3 system-ui, sans-serif; margin: 0; color: var(--ink);
  background: var(--paper) }
main { padding: .6rem 1.2rem } h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1rem; margin: .7rem 0 .2rem }
header { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; align-items: baseline; justify-content: space-between }
#state { font-weight: 600 } .bad { border: 2px solid; padding: .1rem .6rem } .old { opacity: .6 }
#summary { font-size: 1.15rem; margin: .3rem 0 } #note { margin: .5rem 0 0 }
#tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .6rem; margin: .5rem 0 }
#tiles div { border: 1px solid var(--line); border-radius: .4rem; padding: .3rem .7rem }
#tiles dt { font-size: .9rem } #tiles dd { margin: 0 } #tiles b { font-size: 1.9rem; line-height: 1.2 }
svg { display: block } #pool { width: 100%; height: 3.2rem } #pool text { font-size: .85rem; fill: #000 }
caption { text-align: left; padding: .5rem 0 .1rem; font-size: .9rem }
#table { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .04rem .5rem; text-align: right; white-space: nowrap }
thead th { vertical-align: bottom; border-bottom-width: 2px }
.left { text-align: left } tbody th { max-width: 16rem; overflow: hidden; text-overflow: ellipsis }
th button { font: inherit; font-weight: 600; background: none; border: 0; padding: 0; color: inherit; cursor: pointer;
  text-align: inherit; white-space: normal }
[aria-sort=descending] button::after { content: ' ▼' }
[aria-sort=ascending] button::after { content: ' ▲' }
.swatch { display: inline-block; vertical-align: -.15em; margin-right: .45rem; border: 1px solid #555 }
.both { display: flex; gap: .5rem; justify-content: flex-end; align-items: center }
#tiles .both { justify-content: flex-start } .dots { letter-spacing: .12em }
.warn { font-weight: 700; text-decoration: underline }
.idle th, .idle td { opacity: .75 } input, form button { font: inherit; padding: .2rem .6rem }
:focus-visible { outline: 3px solid; outline-offset: 1px } [hidden] { display: none !important }
"""

_COLUMNS = (
    ("name", "Student", "Sort by name"),
    ("doing", "Answers", "● being written, ○ waiting; sort by how many are open"),
    ("oldest", "Longest open", "Sort by the age of the oldest open answer"),
    ("blocks", "KV blocks", "Sort by KV blocks"),
    ("speed", "Tokens/s", "Over ten seconds, and the last minute as a line; sort by it"),
    ("share", "Share", "Of everybody’s tokens/s, the mark is an equal share; sort by it"),
    ("minute", "Last minute", "Tokens of answers in the last minute; sort by it"),
    ("total", "In all", "Tokens of prompts and answers since the server’s start; sort by it"),
    ("quota", "Quota left", "Sort by what is left of the tightest quota"),
)
_TILES = (
    ("speed", "Tokens per second"),
    ("running", "Answers being written"),
    ("waiting", "Answers waiting"),
    ("blocks", "KV blocks in use"),
    ("active", "Students at work"),
)
_LEFT = ("name", "doing", "quota")


def make_class_page(model: str) -> str:
    """The whole page."""
    title = f"Class view: {escape(model)}"
    heads = "".join(
        f'<th scope="col" data-by="{name}"{_CLASS[name in _LEFT]}><button type="button" title="{told}">{label}'
        "</button></th>"
        for name, label, told in _COLUMNS
    )
    tiles = "".join(f'<div><dt>{label}</dt><dd id="tile-{name}"></dd></div>' for name, label in _TILES)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>"
        f'<header><h1>{title}</h1><span id="state" role="status" aria-live="polite"></span></header>'
        '<form id="door"><p><label>Your key <input id="key" type="password" autocomplete="off" required></label> '
        "<button>Show the class</button></p><p>The instructor’s key: the roster’s, or one of --api-keys. This page "
        "forgets it when it is closed.</p></form>"
        f'<div id="view" hidden><p id="summary"></p><dl id="tiles">{tiles}</dl>'
        '<h2>The KV pool, by student</h2><svg id="pool" role="img" preserveAspectRatio="none"></svg>'
        '<div id="table"><table>'
        "<caption>Students: ● an answer being written, ○ one that waits; the line is the last "
        "minute’s tokens/s, the "
        "mark in a share an equal one; KV bars compare with who has most</caption>"
        f'<thead><tr>{heads}</tr></thead><tbody id="rows"></tbody></table></div>'
        '<p id="note"><label><input id="all" type="checkbox"> <span id="idle"></span></label></p>'
        "<p>Prompts and answers are their students’ own: neither is shown here, nor sent to this page.</p>"
        f"</div><noscript>This page needs JavaScript; the numbers are at ../class.</noscript></main>"
        f"<script>{SCRIPT}</script></body></html>"
    )


_CLASS = {True: ' class="left"', False: ""}
