"""The plain log file of a campaign: what the library says while it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def log_file(folder: Path) -> Generator[None]:
    """Append what the library logs to `folder`/campaign.log, in UTC."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "campaign.log", encoding="utf-8")
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    loggers = [logging.getLogger(name) for name in ("lynx_engine", "flows")]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False  # prefect puts a handler for the terminal on the root
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
