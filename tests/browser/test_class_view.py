"""The class view in a browser, through JupyterLab's proxy, and its widget in a notebook: a class of thirty at work."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

pytestmark = pytest.mark.browser
NAMES = [
    "Ada", "Ben", "Chen", "Dana", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun", "Kemal", "Lin", "Mira", "Noor",
    "Otto", "Priya", "Quim", "Rosa", "Sami", "Tove", "Uma", "Vera", "Wei", "Ximena", "Yara", "Zoe", "Aiko", "Bilal",
    "Carla", "<img src=x onerror=alert(1)>",
]  # fmt: skip
FLOODING = (1, 9)
SIZES = ("--session-len", "1024", "--max-batch-size", "16", "--cache-max-entry-count", "120")


@pytest.fixture(scope="module")
def roster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("class") / "roster.json"
    students = {name: {"key": f"sk-{place}"} for place, name in enumerate(NAMES)}
    for place in FLOODING:
        students[NAMES[place]]["quota"] = {"max_concurrent": 12}
    quota = {"max_concurrent": 3, "tokens_per_minute": 9000}
    path.write_text(json.dumps({"instructor": {"key": "sk-teacher"}, "quota": quota, "students": students}), "utf-8")
    return path


@contextmanager
def _server(roster: Path, port: int) -> Iterator[int]:
    """A class's server, started as instructors start it; gives its port."""
    command = [sys.executable, "-m", "lmcourse", "serve", "api_server", "tiny-chat", "--server-port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, "--class-roster", str(roster), "--grace", "0", *SIZES],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        words = (word for line in process.stdout for word in line.split() if word.startswith("http://"))
        found = urlsplit(next(words).strip(",;")).port
        assert found is not None
        yield found
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextmanager
def _class_at_work(port: int) -> Iterator[None]:
    """Two thirds of the class ask now and then, two flood."""
    ended = threading.Event()

    def ask(place: int) -> None:
        rng = random.Random(place)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
            while not ended.is_set():
                prompt = "Tell me about a lighthouse. " * rng.randrange(1, 12)
                body = {
                    "model": "tiny-chat",
                    "prompt": prompt,
                    "max_tokens": rng.randrange(40, 300),
                    "ignore_eos": True,
                }
                try:
                    answer = http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer sk-{place}"})
                except httpx.HTTPError:
                    return
                ended.wait(1.0 if answer.status_code != 200 else 0.0 if place in FLOODING else rng.uniform(1, 5))

    places = [place for place in range(len(NAMES)) if place % 3] + 13 * [FLOODING[0]] + 11 * [FLOODING[1]]
    threads = [threading.Thread(target=ask, args=(place,), daemon=True) for place in places]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()


def _watch(page) -> tuple[list[str], list[str]]:  # type: ignore[no-untyped-def]
    """Lists that every address asked for, and every error of a script, are added to."""
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message) or dialog.dismiss())
    return asked, errors


def _enter(page, key: str) -> None:  # type: ignore[no-untyped-def]
    page.get_by_label("Your key").fill(key)
    page.get_by_role("button", name="Show the class").click()


def test_page_says_that_jupyterlab_has_logged_its_reader_out(lab, page, roster: Path) -> None:
    from playwright.sync_api import expect

    state = page.locator("#state")
    with _server(roster, 0) as port:
        url = f"http://127.0.0.1:{lab.port}/proxy/{port}/class/view?token={lab.token}"
        page.goto(url, wait_until="domcontentloaded")
        _enter(page, "sk-teacher")
        expect(state).to_have_text("Live")
        page.context.clear_cookies()
        expect(state).to_contain_text("JupyterLab has logged you out")
        page.goto(url, wait_until="domcontentloaded")
        _enter(page, "sk-teacher")
        expect(state).to_have_text("Live")


def test_page_shows_a_class_at_work_and_survives_a_restart(lab, page, roster: Path, pictures: Path) -> None:
    from playwright.sync_api import expect

    asked, errors = _watch(page)
    state, rows = page.locator("#state"), page.locator("#rows tr")
    with _server(roster, 0) as port, _class_at_work(port):
        url = f"http://127.0.0.1:{lab.port}/proxy/{port}/class/view?token={lab.token}"
        page.goto(url, wait_until="domcontentloaded")
        _enter(page, "sk-nobody")
        expect(state).to_contain_text("does not know this key")
        _enter(page, "sk-3")
        expect(state).to_contain_text("instructor")
        _enter(page, "sk-teacher")
        expect(rows).to_have_count(len(NAMES), timeout=15_000)
        page.wait_for_timeout(15_000)
        assert set(page.locator("#rows th").all_inner_texts()) == set(NAMES)
        expect(page.locator("#summary")).to_contain_text("students are at work")
        assert "KV blocks are in use; most by" in page.locator("#pool").get_attribute("aria-label")
        _assert_sorts(page)
        page.screenshot(path=pictures / "class_view.png")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    expect(state).to_contain_text("trying again", timeout=15_000)
    assert rows.count() == len(NAMES)
    with _server(roster, port):
        expect(state).to_contain_text("was restarted", timeout=20_000)
        expect(page.locator("#summary")).to_contain_text("No student is at work")
    assert errors == []
    assert {urlsplit(address).netloc for address in asked if not address.startswith("data:")} == {
        f"127.0.0.1:{lab.port}"
    }
    assert not any("sk-" in address for address in asked)


def _assert_sorts(page) -> None:  # type: ignore[no-untyped-def]
    """By name at a click, backwards at the next; aria-sort says so."""
    head = page.locator("th[data-by=name]")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    first = page.locator("#rows th").first.inner_text()
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert first == page.locator("#rows th").last.inner_text() != page.locator("#rows th").first.inner_text()
    page.locator("th[data-by=minute] button").click()


CELLS = (
    'from lmcourse import teach\nteach.class_view("{url}", "sk-teacher", every_seconds=0.5)',
    "import time\ntime.sleep(4)",
)


def test_widget_refreshes_while_the_kernel_is_busy(lab, page, roster: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    asked, _ = _watch(page)
    with _server(roster, 0) as port, _class_at_work(port):
        _put_notebook(lab, "class.ipynb", [cell.format(url=f"http://127.0.0.1:{port}") for cell in CELLS])
        page.goto(lab.page_of("class.ipynb"), wait_until="domcontentloaded")
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=90_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        table = page.locator(".jp-OutputArea-output .widget-html table")
        table.wait_for(timeout=60_000)
        page.locator(".jp-InputPrompt", has_text="[*]:").wait_for(timeout=30_000)  # the second cell sleeps
        seen = set()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            seen.add(table.inner_text())
            page.wait_for_timeout(200)
        assert len(seen) > 2, "nothing moved while a cell ran"
        expect(page.locator(".widget-html p[role=status]")).to_contain_text("Live")
        page.screenshot(path=tmp_path / "class_widget.png")
    expect(page.locator(".widget-html p[role=status]")).to_contain_text("trying again", timeout=15_000)
    assert {urlsplit(address).hostname for address in asked if address.startswith("http")} == {"127.0.0.1"}


def _put_notebook(lab, name: str, cells: list[str]) -> None:  # type: ignore[no-untyped-def]
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    body = json.dumps({"type": "notebook", "content": notebook}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{lab.port}/api/contents/{name}?token={lab.token}", body, method="PUT"
    )
    urllib.request.urlopen(request, timeout=10).close()
