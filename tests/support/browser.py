"""A real browser for pages on disk: the system's Chromium, headless, watched from outside.

Playwright drives it and downloads none. While its loop runs no other event loop can in this
process, so whoever opens a browser closes it before tests of another kind go on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Request, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[2]
SCREENSHOTS = REPOSITORY / ".ci" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 800}
START_TIMEOUT_MS = 60_000
TIMEOUT_MS = 15_000


def find_chromium() -> Path:
    """Return the browser to test with: `LYNX_CHROMIUM`, else the first of `NAMES` that is there.

    Raises:
        FileNotFoundError: Saying how to install one.
    """
    given = os.environ.get("LYNX_CHROMIUM")
    found = given or next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None or shutil.which(found) is None:
        place = f"LYNX_CHROMIUM names {given}, which is no program" if given else "none was found"
        raise FileNotFoundError(
            f"The browser tests need Chromium, and {place}. Install it as root with "
            "`apt-get update && apt-get install --yes chromium`, or let LYNX_CHROMIUM name one."
        )
    return Path(found)


@contextmanager
def chromium() -> Generator[Browser]:
    """Start the browser; its process has ended when the block is left.

    Raises:
        FileNotFoundError: If there is none.
    """
    program = find_chromium()
    # Chromium's sandbox refuses root, and /dev/shm is too small in most containers.
    switches = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=switches, timeout=START_TIMEOUT_MS
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page that is open, and what it did that nobody asked for.

    Attributes:
        page: Playwright's page.
        file: What was opened.
        complaints: Errors and warnings on the console, and exceptions of scripts.
        requests: Address of everything it loaded or tried to load, the page itself first.
        dialogs: What alert, confirm and prompt said; each was dismissed.
    """

    page: Page
    file: Path
    complaints: list[str] = field(default_factory=list[str])
    requests: list[str] = field(default_factory=list[str])
    dialogs: list[str] = field(default_factory=list[str])

    def media_requests(self) -> list[str]:
        """Return the clips among the requests."""
        return [address for address in self.requests if address.endswith(".mp4")]

    def assert_clean(self) -> None:
        """Nothing complained, spoke up, came from elsewhere, or led away."""
        folder = self.file.parent.as_uri() + "/"
        away = [a for a in self.requests if not a.startswith((folder, "data:", "blob:"))]
        assert away == []
        assert self.complaints == []
        assert self.dialogs == []
        assert self.page.url.partition("#")[0] == self.file.as_uri()
        assert len(self.page.context.pages) == 1

    def screenshot(self, name: str, *, whole: bool = False) -> Path:
        """Keep what is seen as CI's output; return the picture's path."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        size = self.page.viewport_size or DESK
        if whole:
            # What is out of sight is not drawn, and its pictures are not loaded.
            height = self.page.evaluate("document.documentElement.scrollHeight")
            self.page.set_viewport_size({"width": size["width"], "height": height})
            self.page.wait_for_function(LOADED)
        self.page.screenshot(path=path)
        self.page.set_viewport_size({"width": size["width"], "height": size["height"]})
        return path


@contextmanager
def visit(
    browser: Browser, file: Path, *, javascript: bool = True, **options: Any
) -> Generator[Visit]:
    """Open a file in a context of its own.

    Args:
        browser: From `chromium`.
        file: The page.
        javascript: Whether scripts run.
        options: As Playwright's `new_context`: `viewport`, `color_scheme`, `bypass_csp`, ...
    """
    told: dict[str, Any] = {"viewport": DESK, "java_script_enabled": javascript, **options}
    context = browser.new_context(**told)
    try:
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        seen = Visit(page, file)
        _watch(seen)
        page.goto(file.as_uri(), wait_until="load")
        yield seen
    finally:
        context.close()


def _watch(seen: Visit) -> None:
    page = seen.page

    def asked(request: Request) -> None:
        seen.requests.append(request.url)

    page.on("request", asked)
    page.on("requestfailed", lambda r: seen.complaints.append(f"failed: {r.url}: {r.failure}"))
    page.on("pageerror", lambda error: seen.complaints.append(f"exception: {error}"))
    page.on(
        "console",
        lambda message: (
            seen.complaints.append(f"{message.type}: {message.text}")
            if message.type in {"error", "warning", "assert"}
            else None
        ),
    )

    def speak(dialog: Any) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", speak)


def faults_of_access(page: Page) -> list[str]:
    """Return what axe-core finds serious or critical: rule, help and the places, one line each.

    The page's policy forbids foreign scripts, so its context has to be made with `bypass_csp`.
    """
    page.evaluate(_axe_script())
    options = json.dumps({"resultTypes": ["violations"]})
    found: dict[str, Any] = page.evaluate(f"axe.run({options})")
    return [
        f"{rule['impact']} {rule['id']}: {rule['help']}: "
        + "; ".join(" ".join(map(str, node["target"])) for node in rule["nodes"][:5])
        for rule in found["violations"]
        if rule["impact"] in {"serious", "critical"}
    ]


def _axe_script() -> str:
    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


SCRIPTS = """() => [...document.querySelectorAll('script')].map(
  node => [node.type, node.src, node.textContent.length])"""
"""Finds the script elements of a page: type, source, length of the text."""

HANDLERS = """() => [...document.querySelectorAll('*')].flatMap(node => [...node.attributes]
  .filter(a => a.name.startsWith('on') || a.name === 'srcdoc' || /^\\s*javascript:/i.test(a.value))
  .map(a => `${node.tagName} ${a.name}=${a.value.slice(0, 60)}`))"""
"""Finds attributes that would run something."""

LOADED = "() => [...document.images].every(image => image.complete)"
"""Tells whether every picture is there, or failed."""

SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""Tells how many pixels a page is wider than the window."""
