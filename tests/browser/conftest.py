"""A JupyterLab on copies of the lessons, and a browser without a screen to use it with."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmcourse.authoring import clean_room

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
START_SECONDS = 90


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab; `page_of` gives the address of a notebook in its folder."""

    port: int
    token: str

    def page_of(self, notebook: str) -> str:
        return f"http://127.0.0.1:{self.port}/lab/tree/{notebook}?token={self.token}&reset"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lessons")
    for name in ("notebooks", "images"):
        shutil.copytree(ROOT / name, folder / name)
    settings = tmp_path_factory.mktemp("jupyter")
    _write_setting(settings, "apputils-extension/notification", fetchNews="false", checkForUpdates=False)
    # Otherwise cells outside the window are not in the page, and an error in one of them would not be seen.
    _write_setting(settings, "notebook-extension/tracker", windowingMode="none")
    running = Lab(_free_port(), secrets.token_hex(16))
    with clean_room() as room, open(settings / "log.txt", "w") as log:
        places = {
            name: str(settings / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")
        }
        places |= {
            "JUPYTERLAB_SETTINGS_DIR": str(settings / "lab"),
            "JUPYTERLAB_WORKSPACES_DIR": str(settings / "spaces"),
        }
        server = subprocess.Popen(_command(running, folder), env={**room, **places}, stdout=log, stderr=log)
        try:
            _wait_until_it_answers(running, server, settings / "log.txt")
            yield running
        finally:
            server.terminate()
            server.wait(timeout=30)


def _write_setting(settings: Path, name: str, **values: object) -> None:
    path = settings / "lab" / "@jupyterlab" / f"{name}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def _command(lab: Lab, folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={lab.port}", "--allow-root",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, f"JupyterLab ended:\n{log.read_text()[-2000:]}"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{lab.port}/api?token={lab.token}", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not answer within {START_SECONDS} s:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def page():  # type: ignore[no-untyped-def]
    """A browser page, 1400 × 1000; skipped only where no Chromium is installed."""
    browser_path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser_path is None:
        pytest.skip("no Chromium found; Debian, Ubuntu: sudo apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(QUIET))
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


@pytest.fixture
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where screenshots go."""
    chosen: Path | None = request.config.getoption("screenshots_to")
    return chosen or tmp_path
