"""Signs clips with C2PA Content Credentials, and says what a clip's credential is worth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lynx_engine.settings import Settings


class CredentialKind(StrEnum):
    """What a clip's credential is worth.

    Attributes:
        TRUSTED: Intact, and signed by somebody whom the settings' `root.pem` vouches for.
        VALID: Intact; nobody here vouches for the signer.
        INVALID: The clip or its credential was changed, or the credential does not hold any more.
        NONE: The file has no credential.
    """

    TRUSTED = "trusted"
    VALID = "valid"
    INVALID = "invalid"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialState:
    """What was found in a file.

    Attributes:
        state: What the credential is worth.
        signer: The certificate's subject, sha256 and last day, as the log has it; "" without one.
        not_after: When the signing certificate ends, UTC; None without one.
        identifier: Label of the C2PA manifest, the log's `credential`; "" without one.
        problems: What is wrong with it, in words; none if it is trusted, valid or not there.
    """

    state: CredentialKind
    signer: str = ""
    not_after: datetime | None = None
    identifier: str = ""
    problems: tuple[str, ...] = ()


def read_credential(path: Path, *, settings: Settings) -> CredentialState:
    """Check the credential of a clip, without any network.

    Args:
        path: An mp4, wherever it lies.
        settings: `credentials` names the folder whose `root.pem` says whom to trust; without it
            no signer is trusted.

    Returns:
        What is found; a file that is no mp4, or a broken one, is not an error but a state.

    Raises:
        OSError: If the file cannot be read.
        RefusedError: If the settings name a folder without a usable `root.pem`.
    """
    raise NotImplementedError(path, settings)
