"""A student's way through the lessons in a real browser: open, run all, move every slider, see no error.

`pytest tests/browser --screenshots-to images` renews the README's pictures.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lmcourse.authoring import Project, build_notebook

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 240
LESSONS = {lesson.name: lesson for lesson in Project(ROOT).lessons()[:3]}
PICTURES = {"01_environment": ("lesson.png", "first words"), "03_kv_cache": ("lesson_3.png", "One long strip")}
SLIDERS = {"01_environment": 0, "02_hf_vs_turbomind": 0, "03_kv_cache": 6}

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("name", LESSONS)
def test_lesson_runs_and_moves_in_jupyterlab(lab, page, pictures: Path, name: str) -> None:
    hosts: set[str | None] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(lab.page_of(f"notebooks/{name}.ipynb"), wait_until="domcontentloaded")
    number_of_cells = sum(cell.cell_type == "code" for cell in build_notebook(LESSONS[name]).cells)
    _run_all(page, number_of_cells)

    errors = _errors(page)
    assert errors.count() == 0, errors.first.inner_text()
    assert page.locator(".jp-CodeCell").count() == number_of_cells
    sliders = page.locator(".jp-OutputArea-output .widget-slider")
    assert sliders.count() == SLIDERS[name]
    for place in range(sliders.count()):
        _move(sliders.nth(place))
    _take_picture(page, pictures, name)
    assert hosts - {None, ""} <= {"127.0.0.1"}, "a request left the machine"


def _errors(page):  # type: ignore[no-untyped-def]
    """JupyterLab shows a traceback as it shows stderr, which lessons do not write to either."""
    return page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')


def _run_all(page, number_of_cells: int) -> None:  # type: ignore[no-untyped-def]
    """Without outputs first, so that what is seen was made in this browser."""
    status = page.locator("#jp-main-statusbar")
    status.get_by_text("| Idle").wait_for(timeout=90_000)
    _menu(page, "Edit", "Clear Outputs of All Cells")
    _menu(page, "Run", "Run All Cells")
    last = page.locator(".jp-CodeCell .jp-InputPrompt", has_text=f"[{number_of_cells}]:")
    last.or_(_errors(page)).first.wait_for(timeout=RUN_SECONDS * 1000, state="attached")
    status.get_by_text("| Idle").wait_for(timeout=30_000)


def _move(slider) -> None:  # type: ignore[no-untyped-def]
    """One step to the right, or to the left where there is none: another picture and other words, both in the page."""
    from playwright.sync_api import expect

    output = slider.locator("xpath=ancestor::*[contains(@class, 'jp-OutputArea-output')]").first
    image = output.locator("figure img")  # looked up anew at each use: a new picture is a new element
    before, words = image.get_attribute("src"), image.get_attribute("alt")
    handle = slider.locator(".noUi-handle")
    handle.scroll_into_view_if_needed()
    handle.focus()
    at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    handle.press("ArrowLeft" if at_end else "ArrowRight")
    expect(image).not_to_have_attribute("src", before, timeout=15_000)
    assert image.get_attribute("alt") != words
    assert image.evaluate("image => image.complete && image.naturalWidth > 100")


def _take_picture(page, pictures: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    if name not in PICTURES:
        return
    file, heading = PICTURES[name]
    found = page.locator(".jp-RenderedMarkdown h2", has_text=heading)
    found.last.evaluate("heading => heading.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(500)
    page.screenshot(path=pictures / file)
    assert (pictures / file).stat().st_size > 20_000


def _menu(page, menu: str, entry: str) -> None:  # type: ignore[no-untyped-def]
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=entry, exact=True).click()
