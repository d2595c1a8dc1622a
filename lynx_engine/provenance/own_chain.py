"""Makes a chain of certificates for tests: an authority of one's own, and a signing certificate.

Nobody else trusts it. The authority's key is thrown away once it signed.
"""

from __future__ import annotations

import secrets
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import Problem, RefusedError
from lynx_engine.provenance.certificates import CHAIN_FILE, KEY_FILE, ROOT_FILE
from lynx_engine.provenance.files import sync_folder, write_durably

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )
    from cryptography.x509 import CertificateBuilder, Name

DAYS = 365
_NAME = "lynx_engine test"
# A clock that is a little behind elsewhere must not find the certificate in the future.
_EARLIER = timedelta(hours=1)


def make_own_chain(folder: Path, now: datetime, *, days: float = DAYS) -> None:
    """Put a test chain into a new folder that its owner alone may enter.

    Args:
        folder: Must not be there yet; it appears whole or not at all.
        now: The moment from which it holds, UTC.
        days: How long it holds.

    Raises:
        RefusedError: If something stands there.
        OSError: If the disk refuses.
    """
    if folder.exists() or folder.is_symlink():
        text = "is there already, and no key is overwritten. Name another folder, or remove it"
        raise RefusedError([Problem(str(folder), text)], outcome="nothing was made")
    files = own_chain(now, days=days)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temp = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    temp.mkdir(mode=0o700)
    try:
        for name, data in files.items():
            write_durably(temp / name, data, mode=0o600)
        temp.rename(folder)  # fails on a folder that holds anything
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def own_chain(now: datetime, *, days: float = DAYS) -> dict[str, bytes]:
    """Return the files of a test chain: name -> PEM; ES256 (P-256 and SHA-256)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(role: str) -> Name:
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, _NAME)
        return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, f"{_NAME} {role}")])

    def certificate(
        role: str, key: EllipticCurvePublicKey, issuer: EllipticCurvePrivateKey, *, ca: bool
    ) -> CertificateBuilder:
        usage = x509.KeyUsage(
            digital_signature=not ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=ca,
            crl_sign=ca,
            encipher_only=False,
            decipher_only=False,
        )
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(name(role))
            .issuer_name(name("root"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _EARLIER)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(
                x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True
            )
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority, critical=False)
        )

    authority = ec.generate_private_key(ec.SECP256R1())
    signer = ec.generate_private_key(ec.SECP256R1())
    root = certificate("root", authority.public_key(), authority, ca=True).sign(authority, SHA256())
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    leaf = certificate("signer", signer.public_key(), authority, ca=False)
    leaf = leaf.add_extension(uses, critical=False).sign(authority, SHA256())
    return {
        CHAIN_FILE: leaf.public_bytes(Encoding.PEM),
        KEY_FILE: signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        ROOT_FILE: root.public_bytes(Encoding.PEM),
    }
