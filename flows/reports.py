"""Writes a campaign's report when a run ends. A page is a view: without it nothing is lost.

What goes wrong here is one warning in the campaign's log, never an exit code.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)


def report_path(campaign: str, settings: Settings) -> Path:
    """Return where a campaign's report lies, or will."""
    from lynx_engine.report.html import REPORT_FILE

    return settings.campaign_dir(campaign) / REPORT_FILE


def report_after_run(campaign: str, settings: Settings) -> Path | None:
    """Write the report anew, unless the settings say no.

    Ctrl-C meanwhile ends the writing only: every row has ended and is recorded.

    Returns:
        The page; None where none was written.
    """
    if not settings.report:
        return None
    try:
        from lynx_engine.report.html import write_report

        return write_report(campaign, settings=settings)
    except KeyboardInterrupt:
        logger.warning("the report was not written: it was interrupted")
    except Exception as error:  # noqa: BLE001  # a page about the run must not end the run
        logger.warning("the report was not written: %s: %s", type(error).__name__, error)
    return None


def report_if_missing(campaign: str, settings: Settings) -> Path | None:
    """Write the report of a campaign of which nothing ran, if it has a log and no page as new.

    An older page is what a run leaves that was killed before it wrote one. One that is as new is
    neither read nor written: resuming a finished campaign is quick.

    Returns:
        The page; None where there is none.
    """
    from lynx_engine.provenance.store import FOLDER

    page = report_path(campaign, settings)
    log = page.parent / FOLDER
    if not settings.report or not log.is_dir():
        return None
    is_whole = page.is_file() and page.stat().st_mtime_ns >= log.stat().st_mtime_ns
    return page if is_whole else report_after_run(campaign, settings)
