"""The harness sees what it must see: each watch goes red on a page made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browser import HANDLERS, faults_of_access, find_chromium, visit
from tests.support.logs import make_media

BAD = """<!doctype html><html><head><title>bad</title></head><body>
<img src="https://example.invalid/a.png" onerror="alert(1)">
<script>console.error('wrong'); undefined.x</script><input></body></html>"""


def test_page_that_misbehaves_is_seen_to(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(BAD)
    with visit(browser, page) as seen:
        seen.page.wait_for_timeout(100)
        assert "https://example.invalid/a.png" in seen.requests
        told = " ".join(seen.complaints)
        assert "error: wrong" in told
        assert "exception: " in told
        assert seen.dialogs == ["1"]
        assert seen.page.evaluate(HANDLERS) == ["IMG onerror=alert(1)"]
        with pytest.raises(AssertionError):
            seen.assert_clean()
        faults = faults_of_access(seen.page)
    assert any(fault.startswith("critical image-alt: ") for fault in faults)


def test_clip_of_ours_plays_in_this_chromium(browser: Browser, tmp_path: Path) -> None:
    make_media(tmp_path)
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><title>c</title><video src="clip.mp4" muted></video>')
    with visit(browser, page) as seen:
        seen.page.evaluate("document.querySelector('video').play()")
        seen.page.wait_for_function("document.querySelector('video').currentTime > 0.2")
        seen.assert_clean()


def test_missing_browser_is_told_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LYNX_CHROMIUM", raising=False)
    with pytest.raises(FileNotFoundError, match="apt-get install --yes chromium"):
        find_chromium()
    monkeypatch.setenv("LYNX_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(FileNotFoundError, match="LYNX_CHROMIUM names /nowhere/chromium"):
        find_chromium()
