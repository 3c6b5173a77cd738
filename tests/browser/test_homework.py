"""A student's way through lesson 9 in a real browser: run, answer an exercise, chat on the page, look back, hand in.

`pytest tests/browser --screenshots-to images` renews the README's picture.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmcourse.authoring import Project, build_notebook

ROOT = Path(__file__).parents[2]
LESSON = next(lesson for lesson in Project(ROOT).lessons() if lesson.number == 9)
RUN_SECONDS = 240

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def homework(lab, page):  # type: ignore[no-untyped-def]
    """Lesson 9, run from top to bottom once; every hand that follows is the student's."""
    page.goto(lab.page_of(f"notebooks/{LESSON.name}.ipynb"), wait_until="domcontentloaded")
    status = page.locator("#jp-main-statusbar")
    status.get_by_text("| Idle").wait_for(timeout=90_000)
    for menu, entry in (("Edit", "Clear Outputs of All Cells"), ("Run", "Run All Cells")):
        page.get_by_role("menuitem", name=menu, exact=True).click()
        page.get_by_role("menuitem", name=entry, exact=True).click()
    number = sum(cell.cell_type == "code" for cell in build_notebook(LESSON).cells)
    errors = page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')
    last = page.locator(".jp-CodeCell .jp-InputPrompt", has_text=f"[{number}]:")
    last.or_(errors).first.wait_for(timeout=RUN_SECONDS * 1000, state="attached")
    assert errors.count() == 0, errors.first.inner_text()
    return page


def cell_with(page, code: str):  # type: ignore[no-untyped-def]
    return page.locator(".jp-CodeCell").filter(has=page.locator(".cm-content", has_text=code)).first


def run_again(page, code: str):  # type: ignore[no-untyped-def]
    """Click into a cell, press Shift-Enter, wait for its new number; gives its output."""
    cell = cell_with(page, code)
    before = cell.locator(".jp-InputPrompt").inner_text()
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        "([cell, before]) => { const now = cell.querySelector('.jp-InputPrompt').innerText;"
        " return now !== before && /\\d/.test(now); }",
        arg=[cell.element_handle(), before],
        timeout=60_000,
    )
    return cell.locator(".jp-OutputArea-output")


def test_an_answer_is_written_checked_and_remembered(homework, pictures: Path) -> None:
    page = homework
    cell_with(page, "def engine_settings").locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(
        'def engine_settings(ratio):\n    return {"model_format": "awq", "cache_max_entry_count": ratio}'
    )
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")  # its check stands below
    check = cell_with(page, 'homework.check("9.3"').locator(".jp-OutputArea-output")
    check.get_by_text(re.compile("cases pass")).wait_for(timeout=60_000)
    assert "✓" in check.inner_text()

    shown = run_again(page, "homework.progress()")
    row = shown.locator("tr", has_text="9.3")
    row.get_by_text("100 %").wait_for(timeout=10_000)
    assert row.get_by_label("done").count() == 1
    assert shown.get_by_text("resume here").count() == 1
    page.locator(".jp-RenderedMarkdown h2", has_text="Where you stand").evaluate("h => h.scrollIntoView()")
    page.wait_for_timeout(500)
    page.screenshot(path=pictures / "lesson_9.png")


def test_talking_on_the_page_completes_the_evidence(homework) -> None:
    page = homework
    evidence = run_again(page, 'homework.read_evidence("w4a16-server")')
    assert "5 of 6 shown" in evidence.inner_text()
    link = cell_with(page, "display(page)").locator(".jp-OutputArea-output a")
    assert "/proxy/" in str(link.get_attribute("href"))
    with page.context.expect_page() as opened:
        link.click()
    chat = opened.value
    box = chat.get_by_placeholder("Your message")
    box.wait_for(timeout=60_000)
    box.fill("What is 48 + 37?")
    box.press("Enter")
    chat.locator(".message.bot").first.wait_for(timeout=60_000)
    chat.get_by_role("button", name="Stop", disabled=True).wait_for(timeout=60_000)
    chat.close()
    evidence = run_again(page, 'homework.read_evidence("w4a16-server")')
    evidence.get_by_text("6 of 6 shown").wait_for(timeout=10_000)
    assert "✗" not in evidence.inner_text()


def test_what_was_done_is_handed_in(homework) -> None:
    page = homework
    looked = run_again(page, "for found in homework.tasks().found").inner_text()
    for task in ("chat", "w4a16-chat", "w4a16-server", "w4a16-pipeline"):
        assert re.search(rf"(?m)^{task} +complete$", looked)
    page.keyboard.press("Control+s")
    page.wait_for_timeout(1500)
    run_again(page, "lmcourse homework submit")
    submitted = cell_with(page, "lmcourse homework submit").locator(".jp-OutputArea-output").inner_text()
    assert "exercise 9.3" not in submitted
    assert "exercise 9.2: still the stub" in submitted
    assert "evidence of task w4a16" not in submitted
