"""Documentation that a machine can check: sizes, README tree and links, nothing of a machine in what is committed."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lmcourse"
MODULES = sorted(PACKAGE.rglob("*.py"))
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TEXT_ENDINGS = {"", ".typed", ".py", ".md", ".toml", ".yml", ".txt", ".cfg", ".ipynb", ".json", ".svg", ".jinja"}
# Written in two halves, so that this file passes its own test.
HOSTS = ["pypi" + ".org", "python" + "hosted.org", "download." + "pytorch.org", "anaconda" + ".org", "npmjs" + ".org"]
# The shared model folder of the classroom machines, share/ in root's home, is part of the lesson.
MACHINE_PATH = re.compile(
    r"(?<![\w~.}<])/(?:home/(?!someone)\w|root/(?!share/)|work/|Users/(?!someone)\w|private/var|tmp/\w)"
)


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring: words that help the reader are not held against the code."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return total
    docstring = function.body[0]
    return total - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def most_lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """40; of a Triton kernel 80 without its signature, which names pointers, sizes and tiles one to a line."""
    if not any(ast.unparse(mark).startswith("jit") for mark in function.decorator_list):
        return 40
    return 80 + function.body[0].lineno - function.lineno


def committed_texts() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so nothing says which files are committed")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix in TEXT_ENDINGS]


def slug_of(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "no module docstring"
    long = {f"{f.name} (line {f.lineno})": lines_of(f) for f in functions_of(path) if lines_of(f) > most_lines_of(f)}
    assert not long, f"functions that are too long: {long}"


def test_most_functions_fit_in_twenty_five_lines() -> None:
    lengths = [lines_of(function) for path in MODULES for function in functions_of(path)]
    assert sum(length <= 25 for length in lengths) / len(lengths) >= 0.9


def test_module_docstring_is_a_summary() -> None:
    """A folder's table may be as long as the folder; the rest says it in fifteen lines, pictures not counted."""
    long = {}
    for path in MODULES:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        prose = [line for line in docstring.splitlines() if line.strip() and not line.startswith("    ")]
        if path.name != "__init__.py" and len(prose) > 15:
            long[path.relative_to(PACKAGE).as_posix()] = len(prose)
    assert not long


def test_nothing_of_a_machine_is_committed() -> None:
    found = []
    for path in committed_texts():
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}: {host}" for host in HOSTS if host in text]
        if match := MACHINE_PATH.search(text):
            found.append(f"{path.relative_to(ROOT)}: …{text[max(0, match.start() - 30) : match.end() + 30]!r}")
    assert not found, "\n".join(found)


def test_readme_tree_lists_every_folder() -> None:
    """Each line of the tree begins with a name: everything at the top, and everything in the package, and no more."""
    tree = re.search(r"## The tree.*?```\w*\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert tree, "README.md has no section `## The tree` with a fenced tree"
    listed = re.findall(r"^( *)([\w.-]+/?)", tree[1], re.MULTILINE)
    tracked = {path.relative_to(ROOT).parts for path in committed_texts()}
    for margin, inside in (("", ()), ("  ", ("lmcourse",))):
        depth = len(inside)
        here = [parts for parts in tracked if len(parts) > depth and parts[:depth] == inside]
        wanted = {parts[depth] + ("/" if len(parts) > depth + 1 else "") for parts in here}
        assert {name for indent, name in listed if indent == margin} == wanted


@pytest.mark.parametrize("script", sorted((ROOT / "images").glob("draw_*.py")), ids=lambda path: path.stem)
def test_picture_is_what_its_script_draws(script: Path) -> None:
    drawing = runpy.run_path(str(script))["drawing"]()
    picture = script.with_name(f"{script.stem.removeprefix('draw_')}.svg")
    assert picture.read_text(encoding="utf-8") == drawing


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_links_lead_somewhere(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    headings = {slug_of(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if target.startswith("#"):
            broken += [] if target[1:] in headings else [target]
        elif not target.startswith(("http:", "https:")):
            broken += [] if (guide.parent / target.partition("#")[0]).exists() else [target]
    assert not broken


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_make_tasks_that_are_named_exist(guide: Path) -> None:
    tasks = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(
        re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*(?:$|[`#]|  ))", guide.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named
    assert named <= tasks


def test_python_in_the_readme_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        result = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_commands_of_lmcourse_that_are_named_exist(guide: Path) -> None:
    named = set(re.findall(r"(?:^|[/`])lmcourse ([a-z_]+)", guide.read_text(encoding="utf-8"), re.MULTILINE))
    shown = subprocess.run(
        [sys.executable, "-m", "lmcourse", "-h"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert {name for name in named if not re.search(rf"\b{name}\b", shown)} == set()
