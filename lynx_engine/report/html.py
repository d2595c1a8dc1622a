"""Writes a campaign's report: one file that a browser opens beside the clips, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.provenance.files import write_durably

if TYPE_CHECKING:
    from lynx_engine.settings import Settings

REPORT_FILE = "report.html"
"""Name of the report in the campaign's folder."""


def write_report(campaign: str, *, settings: Settings) -> Path:
    """Write the report of a campaign as its log tells it now, whole or not at all.

    Args:
        campaign: Its name.
        settings: Where it lies, and whether photos may be shown.

    Returns:
        The file, `report.html` in the campaign's folder.

    Raises:
        DamagedError: If the campaign's log is damaged.
        OSError: If the disk refuses.
    """
    import jinja2

    from lynx_engine.provenance.store import read_log

    log = read_log(campaign, settings=settings)
    page = settings.campaign_dir(campaign) / REPORT_FILE
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("lynx_engine.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    text = pages.get_template("report.html.j2").render(campaign=campaign, rows=log.to_dicts())
    page.parent.mkdir(parents=True, exist_ok=True)
    write_durably(page, text.encode())
    return page
