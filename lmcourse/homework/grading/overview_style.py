"""How the graded overview looks: system fonts, light and dark, fit for paper. No file, font or script from elsewhere.

Lesson: 9 (homework)
"""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #ffffff; --soft: #5b6675; --line: #d8dee6;
  --band: #f5f7fa; --good: #d9f0e3; --some: #fdf0cf; --bad: #fbdedd; --none: #eceff3; --bar: #2f6f9f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --paper: #14181f; --soft: #9aa6b5; --line: #313a47;
  --band: #1c222b; --good: #1e4634; --some: #4d4119; --bad: #55282a; --none: #262d37; --bar: #6fb1e0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 14px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 34px 0 10px; }
a { color: inherit; text-underline-offset: 3px; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 0; }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.quiet { color: var(--soft); font-size: 13px; }
.warning { border-left: 5px solid #b3261e; padding: 6px 12px; font-weight: 700; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 9px; border-bottom: 1px solid var(--line); text-align: center; white-space: nowrap; }
thead th { color: var(--soft); font-size: 12px; font-weight: 600; border-bottom: 2px solid var(--line); }
tbody th, thead th:first-child { text-align: left; font-weight: 600; }
.exercises { width: 100%; }
.exercises td:last-child { text-align: left; width: 34%; }
.bar { display: inline-block; vertical-align: middle; width: 62%; height: 9px; margin-right: 10px;
  background: var(--none); border: 1px solid var(--line); border-radius: 5px; overflow: hidden; }
.bar div { height: 100%; background: var(--bar); }
.class tbody tr:nth-child(even) th { background: var(--band); }
.points { text-align: right; } .points span { color: var(--soft); font-size: 12px; }
.class small { margin-left: 2px; font-size: 10.5px; }
.passed { background: var(--good); } .partial { background: var(--some); }
.failed, .stopped, .refused { background: var(--bad); } .untried, .missing { background: var(--none); }
.refused { text-align: left; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 24px; list-style: none; padding: 0; font-size: 13px; }
details { border: 1px solid var(--line); border-radius: 8px; margin: 8px 0; padding: 8px 14px; }
summary { cursor: pointer; }
details table { width: 100%; margin-top: 8px; }
details td:last-child { text-align: left; white-space: normal; width: 100%; overflow-wrap: anywhere; }
details:target { outline: 3px solid var(--bar); }
code { font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
@media print { main { max-width: none; padding: 0; } details { break-inside: avoid; }
  .passed, .partial, .failed, .stopped, .untried, .missing { background: none; } }
"""
