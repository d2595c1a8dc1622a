"""Asks, right before a row renders, whether the right to its subject's face still holds.

Planning asked before; a campaign takes a night, and consent can end or be withdrawn in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

from lynx_engine.consent import REQUIRED, is_over, warned_word
from lynx_engine.errors import DamagedError, ErrorCode, PausedError, RowError
from lynx_engine.identity.withdrawals import read_withdrawals, withdrawn

if TYPE_CHECKING:
    from lynx_engine.jobs import PlannedJob
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)


class Rights:
    """Looks at the clock and at the register of withdrawals, each time it is asked."""

    def __init__(self, settings: Settings, *, key: bytes, today: Callable[[], date]) -> None:
        """Know where the register is.

        Args:
            settings: Folders, and what is asked of consent.
            key: The workspace's, by which the register knows photos.
            today: The day it is (UTC).
        """
        self._settings = settings
        self._key = key
        self._today = today

    def checked(self, planned: PlannedJob) -> PlannedJob:
        """Return a row that may render now; one that is only warned of says so in its record.

        Raises:
            RowError: CONSENT, if the right does not hold; rows of other subjects go on.
            PausedError: If nobody can say, as the register of withdrawals is damaged.
        """
        job = planned.job
        if not job.photos:
            return planned
        try:
            register = read_withdrawals(self._settings)
        except DamagedError as error:
            raise PausedError(str(error)) from None
        taken_back = withdrawn(register, job.subject, job.photo_digests, self._key)
        if taken_back:
            raise RowError(ErrorCode.CONSENT, f"{taken_back}.")
        expires = job.consent_expires
        if expires is None or not is_over(expires, self._today()):
            return planned
        if self._settings.consent == REQUIRED:
            text = f"consent of subject '{job.subject}' ended on {expires}, while the campaign ran"
            advice = "renew it and write the new date in the manifest, or remove the subject."
            raise RowError(ErrorCode.CONSENT, f"{text}; {advice}")
        logger.warning(
            "%s: consent ended on %s; it renders, as consent is warn", job.subject, expires
        )
        return replace(planned, job=replace(job, consent=warned_word(expires)))
