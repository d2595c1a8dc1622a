"""Says what a clip's C2PA Content Credential is worth, and what it tells.

It asks no network, and trusts nobody but whom it is given as roots; nothing of the system.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lynx_engine.provenance.certificates import CLAIM_USES, describe_signer, read_roots

if TYPE_CHECKING:
    import c2pa
    from cryptography.x509 import Certificate

    from lynx_engine.settings import Settings

RENDER_LABEL = "org.lynx-engine.render"
"""Label of the assertion that names models and row."""

RENDER_FIELDS = (
    "job_id",
    "run_id",
    "attempt",
    "variant",
    "weights_fingerprint",
    "weights",
    "loras",
)
"""What it holds; `credentials.Claim` says what each means."""

CLIP_MIME = "video/mp4"

# The box type `uuid` of ISO 14496-12 with the id that C2PA gives it.
_C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")

_NO_NETWORK: Mapping[str, object] = {
    "version": 1,
    "core": {"allowed_network_hosts": []},
    "verify": {
        "verify_trust": True,
        "verify_timestamp_trust": True,
        "verify_after_sign": False,
        "ocsp_fetch": False,
        "remote_manifest_fetch": False,
    },
    "builder": {"thumbnail": {"enabled": False}},
}
_USES = "\n".join(CLAIM_USES)

_WORDS = {
    "assertion.bmffHash.mismatch": "the clip was changed after it was signed",
    "assertion.hashedURI.mismatch": "what the credential says was changed after it was signed",
    "claimSignature.mismatch": "the signature does not fit what the credential says",
    "claimSignature.outsideValidity": "it was signed while its certificate did not hold",
    "signingCredential.expired": "its certificate has expired, and no trusted time stamp tells "
    "that it was signed before",
    "signingCredential.invalid": "its certificate may not sign clips",
}
"""Status codes of C2PA in plain words; others are told in the library's."""


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
        says: What it tells of the clip: `source` (IPTC's digital source type), `software`, and what
            `Claim` holds. Worth no more than `state`.
    """

    state: CredentialKind
    signer: str = ""
    not_after: datetime | None = None
    identifier: str = ""
    problems: tuple[str, ...] = ()
    says: Mapping[str, object] = field(default_factory=dict[str, object])


def read_credential(path: Path, *, settings: Settings) -> CredentialState:
    """Check the credential of a clip, without any network.

    C2PA leaves the file's type box, free space and the padding of its own box out of what is
    signed: a change there is invisible to it, and changes neither picture nor statement. The log's
    `clip_digest` covers every byte.

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
    roots = b""
    if settings.credentials is not None:
        roots = read_roots(settings.workspace / settings.credentials)
    # As bytes: the library's errors do not tell a disk's fault from a clip's.
    return inspect_credential(io.BytesIO(path.read_bytes()), CLIP_MIME, roots)


def inspect_credential(file: BinaryIO, mime: str, roots: bytes) -> CredentialState:
    """Check the credential in a file that is open at its start."""
    import c2pa

    try:
        with quiet_context(roots) as context, c2pa.Reader(mime, file, context=context) as reader:
            return _state_of(reader)
    except (KeyError, TypeError, ValueError, AttributeError):
        # Changed so that the library can read it, and what it says has another form.
        said = "it contradicts itself: it was changed after it was signed"
        return CredentialState(state=CredentialKind.INVALID, problems=(said,))
    except c2pa.C2paError as error:
        file.seek(0)
        if _C2PA_BOX not in file.read():
            return CredentialState(state=CredentialKind.NONE)
        said = f"it cannot be read ({error})"
        return CredentialState(state=CredentialKind.INVALID, problems=(said,))


def _state_of(reader: c2pa.Reader) -> CredentialState:
    told: dict[str, Any] = json.loads(reader.json())
    label: str = told["active_manifest"]
    manifest: dict[str, Any] = told["manifests"][label]
    results = told["validation_results"]["activeManifest"]
    kind = CredentialKind(str(told["validation_state"]).lower())
    problems = tuple(
        dict.fromkeys(
            _WORDS.get(failure["code"], f"{failure.get('explanation', '')} ({failure['code']})")
            for failure in results["failure"]
            # Who signed a clip that was changed is not what is wrong with it.
            if failure["code"] != "signingCredential.untrusted"
        )
    )
    certificate = _certificate(reader, label)
    return CredentialState(
        state=kind,
        signer="" if certificate is None else describe_signer(certificate),
        not_after=None if certificate is None else certificate.not_valid_after_utc,
        identifier=label,
        problems=problems if kind is CredentialKind.INVALID else (),
        says=_says(manifest),
    )


def _certificate(reader: c2pa.Reader, label: str) -> Certificate | None:
    """Return the signing certificate: the first one in the signature's box (COSE, RFC 9360)."""
    import c2pa
    from cryptography.x509 import load_der_x509_certificate

    box = io.BytesIO()
    try:
        reader.resource_to_stream(f"self#jumbf=/c2pa/{label}/c2pa.signature", box)
    except c2pa.C2paError:
        return None
    data = box.getvalue()
    # It stands in the protected header, which comes first. A DER certificate is a sequence whose
    # length takes two bytes.
    for start in (match.start() for match in re.finditer(rb"\x30\x82", data)):
        length = 4 + int.from_bytes(data[start + 2 : start + 4])
        try:
            return load_der_x509_certificate(data[start : start + length])
        except ValueError:
            continue
    return None


def _says(manifest: Mapping[str, Any]) -> dict[str, object]:
    """Return what is known to be meant; a stranger's credential may hold anything."""
    said: dict[str, object] = {}
    generators: list[dict[str, Any]] = manifest.get("claim_generator_info") or []
    for generator in generators[:1]:
        words = (str(generator.get(key, "")) for key in ("name", "version"))
        said["software"] = " ".join(words).strip()
    assertions: list[dict[str, Any]] = manifest.get("assertions") or []
    for assertion in assertions:
        label: str = assertion["label"]
        data: dict[str, Any] = assertion.get("data") or {}
        if label == RENDER_LABEL:
            said |= {name: data[name] for name in RENDER_FIELDS if name in data}
        elif label.startswith("c2pa.actions"):
            actions: list[dict[str, Any]] = data.get("actions") or []
            for action in actions[:1]:
                said["source"] = str(action.get("digitalSourceType", ""))
    return said


def quiet_context(roots: bytes) -> c2pa.Context:
    """Return how the library is to behave: no network, nobody trusted but `roots`."""
    import c2pa

    trust = {"user_anchors": roots.decode("ascii"), "trust_config": _USES} if roots else {}
    return c2pa.Context.from_dict({**_NO_NETWORK, "trust": trust})
