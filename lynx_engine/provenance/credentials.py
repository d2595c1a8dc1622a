"""Signs clips with C2PA Content Credentials; `credential_states.py` says what one is worth.

A credential names the engine, the model's digests and the row of the log, and no person: neither
subject nor prompt, no file or campaign name, nothing of a photo. The network is asked for a time
stamp, where the settings name an authority, and for nothing else.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import LynxError, Problem, RefusedError
from lynx_engine.provenance.certificates import ROOT_FILE, WARN_BEFORE, SigningChain, read_chain
from lynx_engine.provenance.credential_states import (
    CLIP_MIME,
    RENDER_FIELDS,
    RENDER_LABEL,
    CredentialKind,
    CredentialState,
    inspect_credential,
    quiet_context,
    read_credential,
)
from lynx_engine.provenance.environment import read_environment
from lynx_engine.provenance.files import remove_temp

if TYPE_CHECKING:
    from lynx_engine.settings import Settings

__all__ = [
    "Claim",
    "CredentialKind",
    "CredentialState",
    "Credentials",
    "Signature",
    "SigningError",
    "read_credential",
]

ENGINE = "lynx_engine"
MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for media that a trained model made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a credential tells of a clip: what made it, and the row of the log. No personal data.

    Attributes:
        job_id: sha256 of the request.
        run_id: The run it belongs to.
        attempt: 1 for the first attempt at this request.
        variant: Registry name.
        weights_fingerprint: Digest that stands for every weight file.
        weights: Weight file of the public layout -> sha256, for those that are known.
        loras: sha256 of each LoRA, in the order they are applied; their names may name a person.
    """

    job_id: str
    run_id: str
    attempt: int
    variant: str
    weights_fingerprint: str
    weights: Mapping[str, str]
    loras: tuple[str, ...]


PROBE = Claim(
    job_id="0" * 64,
    run_id="probe",
    attempt=0,
    variant="probe",
    weights_fingerprint="probe",
    weights={},
    loras=(),
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What signing a clip made.

    Attributes:
        credential: Label of the C2PA manifest.
        signer: Who signed it, as the log has it.
    """

    credential: str
    signer: str


class SigningError(LynxError):
    """A clip was not signed; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Certificates that sign clips; made by `load`.

    Attributes:
        chain: The certificates and the key.
        timestamps: Address of the time-stamp authority, "" for none.
    """

    chain: SigningChain
    timestamps: str = ""

    @classmethod
    def load(cls, settings: Settings, *, now: datetime | None = None) -> Self | None:
        """Read the certificates that the settings name; None if clips are not to be signed.

        Args:
            settings: `credentials` and `timestamps`.
            now: The moment at which they are to hold, UTC; this one by default.

        Raises:
            RefusedError: With everything that is wrong with them.
        """
        if settings.credentials is None:
            return None
        if settings.timestamps and not _is_address(settings.timestamps):
            text = "no address; write it as http://timestamp.example, or leave it out"
            problem = Problem("setting timestamps", text)
            raise RefusedError([problem], outcome="no clip can be signed")
        folder = settings.workspace / settings.credentials
        return cls(read_chain(folder, now or datetime.now(UTC)), settings.timestamps)

    @property
    def timestamp_host(self) -> str:
        """The time-stamp authority, for messages: without a password; "" for none."""
        parts = urlsplit(self.timestamps)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}" if self.timestamps else ""

    def warnings(self, now: datetime | None = None) -> tuple[Problem, ...]:
        """Return what a person should know although clips can be signed."""
        left = self.chain.not_after - (now or datetime.now(UTC))
        if left > WARN_BEFORE:
            return ()
        hours = max(int(left.total_seconds() // 3600), 0)
        told = f"{hours} hours" if hours < 48 else f"{hours // 24} days"
        text = f"the signing certificate ends in {told}, and then no clip can be signed"
        if not self.timestamps:
            text += "; credentials without a time stamp turn invalid then"
        return (Problem(str(self.chain.folder), text),)

    def probe(self) -> None:
        """Sign a picture of one pixel in memory and check it, as every clip will be.

        Raises:
            SigningError: If it cannot be signed, or would not be trusted.
        """
        from PIL import Image

        picture = io.BytesIO()
        Image.new("L", (1, 1)).save(picture, "PNG")
        signed = self._signed(picture.getvalue(), "image/png", PROBE)
        self._accept(inspect_credential(io.BytesIO(signed), "image/png", self.chain.root_pem))

    def sign(self, draft: Path, signed: Path, claim: Claim, *, digest: str = "") -> Signature:
        """Write a signed copy of a clip, durable and checked; the clip itself is only read.

        Args:
            draft: The clip.
            signed: The copy, a name that is not taken yet.
            claim: What its credential tells.
            digest: sha256 that the clip must have, so that no half clip is signed; "" is not
                looked at.

        Raises:
            SigningError: If it cannot be signed, or a reader would not trust it; no file is left.
            OSError: If the disk refuses, or `signed` is taken; no new file is left.
        """
        clip = draft.read_bytes()
        if digest and digest_bytes(clip) != digest:
            raise SigningError("the clip is not the one that was checked: the disk changed it")
        # In memory first: writing straight to a file, the library loses the disk's own error and
        # leaves an empty or half file.
        data = self._signed(clip, CLIP_MIME, claim)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(signed, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with signed.open("rb") as file:
                state = inspect_credential(file, CLIP_MIME, self.chain.root_pem)
            self._accept(state)
        except BaseException:
            remove_temp(signed)
            raise
        return Signature(state.identifier, state.signer)

    def _signed(self, data: bytes, mime: str, claim: Claim) -> bytes:
        import c2pa

        if datetime.now(UTC) >= self.chain.not_after:
            ended = self.chain.not_after.isoformat(" ", "minutes")
            text = f"the signing certificate in {self.chain.folder} expired at {ended}"
            raise SigningError(f"{text}. Put its successor and the new key there")
        signed = io.BytesIO()
        address = self.timestamps or None
        try:
            info = c2pa.C2paSignerInfo(
                self.chain.algorithm, self.chain.chain_pem, self.chain.key_pem, address
            )
            with (
                quiet_context(self.chain.root_pem) as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(_manifest(claim), context) as builder,
            ):
                builder.sign(signer, mime, io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            raise SigningError(self._letter(str(error))) from None
        return signed.getvalue()

    def _letter(self, said: str) -> str:
        """Return what the library said, without a password that stands in an address."""
        if self.timestamps and "http" in said:
            text = f"no time stamp can be had from {self.timestamp_host} (setting timestamps)"
            return f"{text}. Mend the connection, or take the setting out"
        return f"C2PA refuses to sign with {self.chain.folder}: {said}"

    def _accept(self, state: CredentialState) -> None:
        """Let pass what is signed as it should be.

        Raises:
            SigningError: If a reader would not trust it.
        """
        if state.state is CredentialKind.TRUSTED and state.signer == self.chain.signer:
            return
        why = "; ".join(state.problems)
        if state.state is CredentialKind.VALID:
            why = f"{ROOT_FILE} does not vouch for its signer"
        raise SigningError(f"what {self.chain.folder} signs is not accepted: {why or state.state}")


def _manifest(claim: Claim) -> dict[str, object]:
    agent = {"name": ENGINE, "version": read_environment().engine_version}
    created = {
        "action": "c2pa.created",
        "digitalSourceType": MADE_BY_A_MODEL,
        "softwareAgent": agent,
    }
    row = {name: getattr(claim, name) for name in RENDER_FIELDS}
    return {
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}, "created": True},
            {"label": RENDER_LABEL, "data": row, "created": True},
        ],
    }


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_web = parts.scheme in {"http", "https"} and parts.port != 0  # a bad port raises
    except ValueError:
        return False
    return is_web and bool(parts.hostname)
