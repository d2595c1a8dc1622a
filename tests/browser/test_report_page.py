"""The report of a campaign that was really rendered, used as a person uses it, in Chromium."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import PHONE, SCRIPTS, SIDEWAYS, faults_of_access, visit
from tests.support.workspaces import Workspace

PLAYS = (
    "(video) => new Promise((done) => { const began = performance.now(); const look = () => video"
)
PLAYS += (
    ".currentTime > 0 && video.readyState >= 2 ? done(true) : performance.now() - began > 10000"
)
PLAYS += " ? done(false) : setTimeout(look, 20); look(); })"

SHADED = """badges => badges.map(badge => {
  const [own, shot] = [badge, badge.parentElement.querySelector('.shot')].map(
    one => one.getBoundingClientRect());
  return Math.max(0, shot.bottom - own.top) / shot.height;
})"""
"""Tells how much of a picture's height, from below, its status covers."""


@pytest.fixture(scope="session")
def report(studio: Workspace) -> Path:
    return studio.folder / "outputs" / "real" / "report.html"


@pytest.fixture(scope="session")
def rows(studio: Workspace) -> list[dict[str, Any]]:
    """The latest record of every row."""
    return list({row["job_id"]: row for row in studio.json("log", "real")}.values())


def card(page: Page, row: dict[str, Any]) -> Any:
    return page.locator(f"[data-card^='{row['job_id'][:12]}']")


def shown(page: Page) -> int:
    return page.locator("[data-card]:visible").count()


def test_every_row_has_a_card_with_its_status_and_failures_are_seen_first(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    ends = Counter(row["status"] for row in rows)
    assert ends == {"rendered": 5, "low_identity": 1, "failed": 1, "withheld": 1}
    with visit(browser, report) as seen:
        page = seen.page
        there = page.locator("[data-card]").evaluate_all(
            "cards => cards.map(card => [card.dataset.card, card.dataset.status])"
        )
        assert sorted(there) == sorted([row["job_id"], row["status"]] for row in rows)
        statuses = [status for _, status in there]
        assert {statuses[0], statuses[1]} == {"failed", "withheld"}
        for row in rows:
            if row["status"] in {"failed", "withheld"}:
                expect(card(page, row)).to_contain_text(row["message"])
        badges = page.locator("[data-card]:has(img) .badge").evaluate_all(SHADED)
        assert max(badges) < 0.15, "a label burnt into the picture stays in sight"
        posters = page.locator("[data-card] img").count()
        assert posters == len([row for row in rows if row["clip"]]), "one for each clip"
        seen.screenshot("report-desktop", whole=True)
        seen.assert_clean()


def test_clip_plays_on_hover_and_in_the_drawer(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    clip = next(row for row in rows if row["variant"] == "tiny")
    with visit(browser, report) as seen:
        page = seen.page
        assert seen.media_requests() == [], "nothing is fetched before somebody asks"
        card(page, clip).hover()
        video = card(page, clip).locator("video")
        video.wait_for(state="attached")
        assert video.evaluate(PLAYS), "on hover"
        page.mouse.move(0, 0)
        expect(video).to_have_count(0)
        card(page, clip).locator("[data-open]").click()
        player = page.locator("[data-drawer][open] video")
        assert player.evaluate(PLAYS), "in the drawer"
        assert player.evaluate("video => [video.videoWidth, video.videoHeight]") == [64, 64]
        assert {Path(address).name for address in seen.media_requests()} == {clip["clip"]}
        seen.assert_clean()


def test_filter_search_and_groups_leave_what_was_asked_for(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    with visit(browser, report) as seen:
        page = seen.page
        assert shown(page) == len(rows)
        page.select_option("[data-filter=status]", "failed")
        expect(page.locator("[data-card]:visible")).to_have_count(1)
        page.select_option("[data-filter=status]", "")
        page.select_option("[data-filter=variant]", "tiny_lite")
        expect(page.locator("[data-card]:visible")).to_have_count(2)
        page.fill("[data-search]", "walk")
        expect(page.locator("[data-card]:visible")).to_have_count(1)
        page.fill("[data-search]", "no such words")
        expect(page.locator("[data-card]:visible")).to_have_count(0)
        page.fill("[data-search]", "")
        page.select_option("[data-filter=variant]", "")
        expect(page.locator("[data-card]:visible")).to_have_count(len(rows))
        for group, count in (("variant", 5), ("subject", 2), ("seed", 4), ("prompt", 6)):
            page.select_option("[data-group]", group)
            expect(page.locator("section.group:visible")).to_have_count(count)
            assert shown(page) == len(rows), group
        seen.screenshot("report-grouped", whole=True)
        seen.assert_clean()


def test_drawer_opens_and_closes_by_keyboard_and_gives_the_focus_back(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    failed = next(row for row in rows if row["status"] == "failed")
    with visit(browser, report) as seen:
        page = seen.page
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.matches('[data-open]')"):
                break
        first = page.evaluate("document.activeElement.closest('[data-card]').dataset.card")
        page.keyboard.press("ArrowRight")
        second = page.evaluate("document.activeElement.closest('[data-card]').dataset.card")
        assert first != second
        card(page, failed).locator("[data-open]").focus()
        page.keyboard.press("Enter")
        drawer = page.locator("[data-drawer][open]")
        expect(drawer).to_contain_text(failed["message"])
        expect(drawer).to_contain_text("lynx-engine retry")
        expect(drawer).to_contain_text(failed["prompt"])
        assert page.evaluate("document.activeElement.closest('[data-drawer]') !== null")
        seen.screenshot("report-drawer-failed")
        page.keyboard.press("Escape")
        expect(drawer).to_have_count(0)
        here = page.evaluate("document.activeElement.closest('[data-card]').dataset.card")
        assert here == failed["job_id"]
        seen.assert_clean()


def test_drawer_of_a_scored_clip_draws_its_likeness_over_time(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    drifting = next(row for row in rows if row["prompt_name"] == "drift")
    scores = json.loads(drifting["identity_scores"])
    assert len(scores) > 2
    with visit(browser, report) as seen:
        page = seen.page
        card(page, drifting).locator("[data-open]").click()
        line = page.locator("[data-drawer][open] [data-scores] path.line")
        drawn = (line.get_attribute("d") or "").count("L") + 1
        assert drawn == len([score for _, score in scores if score is not None])
        seen.screenshot("report-drawer-likeness")
        seen.assert_clean()


def test_two_variants_play_side_by_side(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    clip = next(row for row in rows if row["variant"] == "tiny")
    with visit(browser, report) as seen:
        page = seen.page
        card(page, clip).locator("[data-open]").click()
        page.locator("[data-side-of]").click()
        wide = page.locator("dialog[data-compare][open]")
        expect(wide.locator("tbody th")).to_have_text(["tiny", "tiny_lite"])
        videos = wide.locator("video")
        expect(videos).to_have_count(2)
        for at in range(2):
            assert videos.nth(at).evaluate(PLAYS), at
        seen.screenshot("report-compare")
        page.keyboard.press("Escape")
        expect(wide).to_have_count(0)
        seen.assert_clean()


def test_phone_dark_mode_and_reduced_motion_are_served(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    clip = next(row for row in rows if row["variant"] == "tiny")
    with visit(
        browser,
        report,
        viewport=PHONE,
        color_scheme="dark",
        reduced_motion="reduce",
        is_mobile=True,
        has_touch=True,
    ) as seen:
        page = seen.page
        assert page.evaluate(SIDEWAYS) <= 0
        red, green, blue = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )[:3]
        assert max(red, green, blue) < 60, "dark"
        seen.screenshot("report-phone-dark")
        card(page, clip).locator("[data-open]").tap()
        player = page.locator("[data-drawer][open] video")
        player.wait_for()
        page.wait_for_timeout(200)
        assert player.evaluate("video => video.paused"), "nothing moves by itself"
        assert page.evaluate(SIDEWAYS) <= 0
        seen.screenshot("report-phone-drawer")
        page.locator("[data-drawer] [data-close]").tap()
        page.locator("[data-side]").tap()
        assert page.evaluate(SIDEWAYS) <= 0
        seen.assert_clean()


def test_page_tells_every_row_without_its_script(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    with visit(browser, report, javascript=False) as seen:
        assert seen.page.locator("[data-card]").count() == len(rows)
        assert seen.page.locator("[data-card]:visible").count() == len(rows)
        seen.assert_clean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_page_drawer_and_comparison(
    browser: Browser, report: Path, scheme: str
) -> None:
    with visit(browser, report, color_scheme=scheme, bypass_csp=True) as seen:
        page = seen.page
        assert faults_of_access(page) == []
        page.locator("[data-status=failed] [data-open]").click()
        assert faults_of_access(page) == []
        page.locator("[data-close]").click()
        page.locator("[data-side]").click()
        assert faults_of_access(page) == []


def test_scripts_are_ours_alone(browser: Browser, report: Path) -> None:
    with visit(browser, report) as seen:
        kinds = [(kind, source) for kind, source, _ in seen.page.evaluate(SCRIPTS)]
        assert kinds == [("application/json", ""), ("", "")]
