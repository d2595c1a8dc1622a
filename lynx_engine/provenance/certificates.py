"""The certificates that sign clips: reads a folder of them and names all that is wrong with it.

What is signed with them is `credentials.py`'s business. A private key is kept in memory only, and
shown nowhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import Problem, RefusedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

CHAIN_FILE = "chain.pem"
KEY_FILE = "key.pem"
ROOT_FILE = "root.pem"
WHAT_IT_HOLDS = {
    CHAIN_FILE: "the signing certificate, then those that vouch for it",
    KEY_FILE: "the signing certificate's private key",
    ROOT_FILE: "the root certificates to trust",
}
"""File of a credentials folder -> what it is for. All are PEM."""

CLAIM_USES = {
    "1.3.6.1.4.1.62558.2.1": "C2PA claim signing",
    "1.3.6.1.5.5.7.3.4": "e-mail protection",
    "1.3.6.1.5.5.7.3.36": "document signing",
    "1.3.6.1.4.1.311.76.59.1.9": "Microsoft's C2PA signing",
}
"""Extended key usages that may sign a clip. Without being told, c2pa-python 0.38.1 trusts only the
second of them (measured)."""

WARN_BEFORE = timedelta(days=7)
_MOST_BYTES = 1_000_000
_FEWEST_RSA_BITS = 2048
_ECDSA = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_ANY_USE = "2.5.29.37.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningChain:
    """A folder of certificates that can sign clips now.

    Attributes:
        folder: Where they lie.
        algorithm: C2PA's name of the signature algorithm, as es256.
        signer: The signing certificate in words, as the log has it.
        not_after: When it ends, UTC.
        chain_pem: It and those that vouch for it, without the text around them.
        key_pem: Its private key, PKCS #8.
        root_pem: The root certificates to trust.
    """

    folder: Path
    algorithm: str
    signer: str
    not_after: datetime
    chain_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    root_pem: bytes = field(repr=False)


def describe_signer(certificate: Certificate) -> str:
    """Return a certificate in words: its subject, its sha256, its last day."""
    from cryptography.hazmat.primitives.hashes import SHA256

    name = certificate.subject.rfc4514_string() or "nobody"
    last = certificate.not_valid_after_utc.date().isoformat()
    return f"{name}, sha256 {certificate.fingerprint(SHA256()).hex()}, until {last}"


def read_chain(folder: Path, now: datetime) -> SigningChain:
    """Read the certificates and the key of a folder.

    Args:
        folder: Holds `chain.pem`, `key.pem` and `root.pem`.
        now: The moment at which they are to hold, UTC.

    Raises:
        RefusedError: With everything that is wrong with them.
    """
    problems: list[Problem] = []
    if not folder.is_dir():
        raise _refused([_no_folder(folder)])
    chain = _certificates(folder / CHAIN_FILE, problems)
    key = _key(folder / KEY_FILE, problems)
    roots = _certificates(folder / ROOT_FILE, problems)
    if chain:
        problems += [
            Problem(str(folder / CHAIN_FILE), text)
            for text in (*_leaf_faults(chain[0], now), *_chain_faults(chain, roots))
        ]
    algorithm = "" if key is None else _algorithm(key)
    if key is not None and not algorithm:
        problems.append(Problem(str(folder / KEY_FILE), _NO_ALGORITHM))
    if chain and key is not None and chain[0].public_key() != key.public_key():
        text = (
            f"this key does not belong to the first certificate of {CHAIN_FILE}. Put the key there "
            "that the certificate was issued for, or the certificate that belongs to the key first"
        )
        problems.append(Problem(str(folder / KEY_FILE), text))
    if problems or key is None:
        raise _refused(problems)
    return SigningChain(
        folder=folder,
        algorithm=algorithm,
        signer=describe_signer(chain[0]),
        not_after=chain[0].not_valid_after_utc,
        chain_pem=_as_pem(chain),
        key_pem=_key_as_pem(key),
        root_pem=_as_pem(roots),
    )


def read_roots(folder: Path) -> bytes:
    """Return the root certificates that a folder names as trusted, PEM.

    Raises:
        RefusedError: If there are none to be read.
    """
    if not folder.is_dir():
        raise _refused([_no_folder(folder)])
    problems: list[Problem] = []
    roots = _certificates(folder / ROOT_FILE, problems)
    if problems:
        raise _refused(problems)
    return _as_pem(roots)


def _refused(problems: Sequence[Problem]) -> RefusedError:
    return RefusedError(problems, outcome="no clip can be signed or checked")


def _no_folder(folder: Path) -> Problem:
    advice = (
        "`lynx-engine credentials init` makes one for tests; without the setting `credentials`, "
        "clips are not signed"
    )
    return Problem(str(folder), f"no such folder of certificates. {advice}")


def _read(path: Path, problems: list[Problem]) -> bytes | None:
    """Read a small file; None, and a problem, if there is none to be read."""
    what = WHAT_IT_HOLDS[path.name]
    try:
        # A fifo must not be waited for. Links are followed: secrets are often mounted as links.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                problems.append(Problem(str(path), f"no regular file. It is to hold {what}"))
                return None
            if path.name == KEY_FILE and found.st_mode & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                text = f"others may read this key (mode {mode:04o}). Run `chmod 600` on it"
                problems.append(Problem(str(path), text))
                return None
            return os.read(descriptor, _MOST_BYTES)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        problems.append(Problem(str(path), f"missing. It is to hold {what}, as PEM"))
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read ({error.strerror}); it holds {what}"))
    return None


def _certificates(path: Path, problems: list[Problem]) -> list[Certificate]:
    from cryptography.x509 import load_pem_x509_certificates

    data = _read(path, problems)
    if data is None:
        return []
    try:
        return load_pem_x509_certificates(data)
    except ValueError:
        text = f"no certificates in PEM. It is to hold {WHAT_IT_HOLDS[path.name]}"
        problems.append(Problem(str(path), text))
        return []


def _key(path: Path, problems: list[Problem]) -> PrivateKeyTypes | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path, problems)
    if data is None:
        return None
    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        text = "this key is encrypted, and nobody is there at night to type its password"
        advice = "Decrypt it (`openssl pkcs8 -in … -out key.pem`) and `chmod 600` it"
        problems.append(Problem(str(path), f"{text}. {advice}"))
    except (ValueError, UnsupportedAlgorithm):
        text = f"no private key in PEM. It is to hold {WHAT_IT_HOLDS[path.name]}"
        problems.append(Problem(str(path), text))
    return None


_NO_ALGORITHM = (
    "C2PA knows no signature with such a key. Use one for ECDSA (P-256, P-384, P-521), Ed25519, or "
    f"RSA of {_FEWEST_RSA_BITS} bits or more"
)


def _algorithm(key: PrivateKeyTypes) -> str:
    """Return C2PA's name for what the key signs with; "" if it has none."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    match key:
        case EllipticCurvePrivateKey():
            return _ECDSA.get(key.curve.name, "")
        case Ed25519PrivateKey():
            return "ed25519"
        case RSAPrivateKey() if key.key_size >= _FEWEST_RSA_BITS:
            return "ps256"
        case _:
            return ""


def _leaf_faults(leaf: Certificate, now: datetime) -> list[str]:
    """Return why a certificate may not sign a clip at a moment."""
    from cryptography import x509

    name = f"the first certificate ({leaf.subject.rfc4514_string()})"
    faults: list[str] = []
    if now >= leaf.not_valid_after_utc:
        ended = leaf.not_valid_after_utc.date()
        faults.append(f"{name} expired on {ended}. Put its successor and the new key here")
    if now < leaf.not_valid_before_utc:
        begins = leaf.not_valid_before_utc.isoformat(" ", "minutes")
        faults.append(f"{name} is not valid before {begins}. Is this machine's clock right?")
    if leaf.subject == leaf.issuer:
        advice = "C2PA wants one that an authority issued, and the authority in root.pem"
        return [*faults, f"{name} is signed by itself. {advice}"]
    extensions = {extension.oid: extension.value for extension in leaf.extensions}
    basic = extensions.get(x509.BasicConstraints.oid)
    if isinstance(basic, x509.BasicConstraints) and basic.ca:
        text = "is an authority's, which may not sign clips. The signing certificate stands first"
        return [*faults, f"{name} {text}"]
    usage = extensions.get(x509.KeyUsage.oid)
    if not isinstance(usage, x509.KeyUsage) or not usage.digital_signature:
        faults.append(f"{name} may not sign: its key usage lacks digitalSignature")
    extended = extensions.get(x509.ExtendedKeyUsage.oid)
    uses = (
        {use.dotted_string for use in extended}
        if isinstance(extended, x509.ExtendedKeyUsage)
        else set[str]()
    )
    if _ANY_USE in uses or uses.isdisjoint(CLAIM_USES):
        known = ", ".join(f"{name} ({oid})" for oid, name in CLAIM_USES.items())
        text = "may not sign clips: its extended key usage is none of those that C2PA takes"
        faults.append(f"{name} {text}: {known}")
    return faults


def _chain_faults(chain: Sequence[Certificate], roots: Sequence[Certificate]) -> list[str]:
    """Return where the line from the signing certificate to a trusted root breaks."""
    for number, (below, above) in enumerate(pairwise(chain), start=1):
        if not _issued(below, above):
            return [f"certificate {number + 1} did not issue certificate {number}. Leaf first"]
    last = chain[-1]
    if roots and not any(root == last or _issued(last, root) for root in roots):
        issuer = last.issuer.rfc4514_string()
        text = f"nobody in {ROOT_FILE} issued it. Put the certificate of {issuer} there"
        return [f"its last certificate leads nowhere: {text}"]
    return []


def _issued(below: Certificate, above: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        below.verify_directly_issued_by(above)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _as_pem(certificates: Sequence[Certificate]) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _key_as_pem(key: PrivateKeyTypes) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
