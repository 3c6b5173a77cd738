"""A student's first minutes, in a real browser: open lesson 1 in JupyterLab, run all cells, see no error."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcourse.authoring import Project, build_notebook

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 240
FIRST = Project(ROOT).lessons("1")[0]

pytestmark = pytest.mark.browser


@pytest.fixture
def screenshot(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """images/lesson.png is made by: pytest tests/browser --screenshot-to images/lesson.png"""
    chosen: Path | None = request.config.getoption("screenshot_to")
    return chosen or tmp_path / "lesson.png"


def test_lesson_runs_to_its_end_in_jupyterlab(lab, page, screenshot: Path) -> None:
    page.goto(lab.page_of(f"notebooks/{FIRST.name}.ipynb"), wait_until="domcontentloaded")
    status = page.locator("#jp-main-statusbar")
    status.get_by_text("| Idle").wait_for(timeout=90_000)
    number_of_cells = sum(cell.cell_type == "code" for cell in build_notebook(FIRST).cells)

    # Without outputs first, so that what is seen below was made in this browser.
    _menu(page, "Edit", "Clear Outputs of All Cells")
    _menu(page, "Run", "Run All Cells")
    last = page.locator(".jp-CodeCell .jp-InputPrompt", has_text=f"[{number_of_cells}]:")
    # JupyterLab shows a traceback as it shows stderr, which lessons do not write to either.
    errors = page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')
    last.or_(errors).first.wait_for(timeout=RUN_SECONDS * 1000, state="attached")
    status.get_by_text("| Idle").wait_for(timeout=30_000)

    _show(page, "first words")
    page.screenshot(path=screenshot)
    assert errors.count() == 0, errors.first.inner_text()
    assert page.locator(".jp-CodeCell").count() == number_of_cells
    assert page.locator(".jp-OutputArea-output").count() > 0
    assert screenshot.stat().st_size > 20_000


def _show(page, heading: str) -> None:  # type: ignore[no-untyped-def]
    """Scroll to the last heading with these words, where there is one."""
    found = page.locator(".jp-RenderedMarkdown h2", has_text=heading)
    if found.count():
        found.last.evaluate("heading => heading.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(500)


def _menu(page, menu: str, entry: str) -> None:  # type: ignore[no-untyped-def]
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=entry, exact=True).click()
