"""Every fault of a folder of certificates is a letter; the certificates are made here."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from lynx_engine.errors import RefusedError
from lynx_engine.provenance.certificates import CLAIM_USES
from lynx_engine.provenance.credentials import Credentials
from lynx_engine.provenance.own_chain import make_own_chain
from lynx_engine.settings import Settings
from tests.support.signing import loaded, signing_settings

NOW = datetime.now(UTC)
MAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
Key = Any  # any of the library's private keys


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issue(
    name: str,
    key: Key,
    issuer: str,
    issuer_key: Key,
    *,
    ca: bool = False,
    begins: timedelta = timedelta(days=-1),
    ends: timedelta = timedelta(days=30),
    uses: Sequence[ObjectIdentifier] = (MAIL,),
    signs: bool = True,
) -> x509.Certificate:
    public, above = key.public_key(), issuer_key.public_key()
    flags = {
        "digital_signature": signs and not ca,
        "content_commitment": not signs,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": ca,
        "crl_sign": ca,
        "encipher_only": False,
        "decipher_only": False,
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(name))
        .issuer_name(name_of(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + begins)
        .not_valid_after(NOW + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**flags), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above), critical=False)
    )
    if uses and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    return builder.sign(issuer_key, SHA256())


def curve(kind: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(kind or ec.SECP256R1())


def key_pem(key: Key, password: bytes = b"") -> bytes:
    hidden = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


def folder_of(
    place: Path, chain: Sequence[x509.Certificate], key: bytes, root: x509.Certificate
) -> Settings:
    folder = place / "certificates"
    folder.mkdir()
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
    (folder / "chain.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(key)
    (folder / "key.pem").chmod(0o600)
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    return Settings(workspace=place, credentials=Path("certificates"))


def issued(place: Path, key: Key | None = None, **changes: Any) -> Settings:
    """Return settings of a leaf under a root of its own; `changes` spoil the leaf."""
    root_key = curve()
    key = key or curve()
    root = issue("root", root_key, "root", root_key, ca=True)
    return folder_of(place, [issue("leaf", key, "root", root_key, **changes)], key_pem(key), root)


def letters(settings: Settings) -> list[str]:
    with pytest.raises(RefusedError) as refused:
        Credentials.load(settings)
    return [problem.text for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("changes", "letter"),
    [
        ({"ends": timedelta(hours=-1)}, "(CN=leaf) expired on 20"),
        ({"begins": timedelta(hours=1)}, "is not valid before 20"),
        ({"uses": ()}, "its extended key usage is none of those that C2PA takes"),
        ({"uses": (ExtendedKeyUsageOID.SERVER_AUTH,)}, "its extended key usage is none of those"),
        (
            {"uses": (MAIL, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)},
            "its extended key usage is none of those",
        ),
        ({"signs": False}, "its key usage lacks digitalSignature"),
        ({"ca": True}, "is an authority's, which may not sign clips"),
    ],
    ids=["expired", "future", "no use", "server", "any use", "no signature", "authority"],
)
def test_certificate_that_may_not_sign_is_named_with_what_it_lacks(
    tmp_path: Path, changes: dict[str, Any], letter: str
) -> None:
    (told,) = letters(issued(tmp_path, **changes))
    assert letter in told


def test_leaf_that_signed_itself_is_refused(tmp_path: Path) -> None:
    key = curve()
    leaf = issue("leaf", key, "leaf", key)
    (told,) = letters(folder_of(tmp_path, [leaf], key_pem(key), leaf))
    assert "is signed by itself" in told


def test_key_that_does_not_fit_and_chain_that_leads_elsewhere_are_told_at_once(
    tmp_path: Path,
) -> None:
    root_key, key = curve(), curve()
    leaf = issue("leaf", key, "root", root_key)
    stranger_key = curve()
    stranger = issue("stranger", stranger_key, "stranger", stranger_key, ca=True)
    told = letters(folder_of(tmp_path, [leaf], key_pem(curve()), stranger))
    assert len(told) == 2
    assert "nobody in root.pem issued it. Put the certificate of CN=root there" in told[0]
    assert "does not belong to the first certificate" in told[1]


def test_chain_in_the_wrong_order_is_refused(tmp_path: Path) -> None:
    root_key, middle_key, key = curve(), curve(), curve()
    root = issue("root", root_key, "root", root_key, ca=True)
    middle = issue("middle", middle_key, "root", root_key, ca=True)
    leaf = issue("leaf", key, "middle", middle_key)
    told = letters(folder_of(tmp_path, [leaf, root, middle], key_pem(key), root))
    assert told == ["certificate 2 did not issue certificate 1. Leaf first"]
    (tmp_path / "right").mkdir()
    loaded(folder_of(tmp_path / "right", [leaf, middle], key_pem(key), root)).probe()


@pytest.mark.parametrize("file", ["chain.pem", "key.pem", "root.pem"])
@pytest.mark.parametrize(
    ("spoil", "letter"),
    [
        (lambda path: path.unlink(), "missing. It is to hold"),
        (lambda path: path.write_text("hello"), "in PEM. It is to hold"),
        (lambda path: path.write_bytes(b""), "in PEM. It is to hold"),
        (lambda path: path.write_bytes(path.read_bytes()[:90]), "in PEM. It is to hold"),
        (lambda path: (path.unlink(), os.mkfifo(path, 0o600)), "no regular file"),
        (lambda path: (path.unlink(), path.mkdir()), "no regular file"),
    ],
    ids=["missing", "text", "empty", "cut", "fifo", "folder"],
)
def test_file_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, file: str, spoil: Callable[[Path], object], letter: str
) -> None:
    settings = signing_settings(tmp_path)
    spoil(tmp_path / "certificates" / file)
    with pytest.raises(RefusedError) as refused:
        Credentials.load(settings)
    (problem,) = refused.value.problems
    assert problem.where == str(tmp_path / "certificates" / file)
    assert letter in problem.text


def test_missing_folder_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    (told,) = letters(Settings(workspace=tmp_path, credentials=Path("nowhere")))
    assert "`lynx-engine credentials init`" in told


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    settings = signing_settings(tmp_path)
    (tmp_path / "certificates/key.pem").chmod(mode)
    (told,) = letters(settings)
    assert told == f"others may read this key (mode {mode:04o}). Run `chmod 600` on it"


def test_encrypted_key_is_refused(tmp_path: Path) -> None:
    root_key, key = curve(), curve()
    root = issue("root", root_key, "root", root_key, ca=True)
    leaf = issue("leaf", key, "root", root_key)
    (told,) = letters(folder_of(tmp_path, [leaf], key_pem(key, b"secret"), root))
    assert "this key is encrypted" in told


@pytest.mark.parametrize(
    "make",
    [
        lambda: curve(ec.SECP256K1()),
        lambda: rsa.generate_private_key(65537, 1024),
        lambda: dsa.generate_private_key(2048),
    ],
    ids=["secp256k1", "rsa1024", "dsa"],
)
def test_key_that_c2pa_has_no_signature_for_is_refused(
    tmp_path: Path, make: Callable[[], Key]
) -> None:
    (told,) = letters(issued(tmp_path, make()))
    assert "C2PA knows no signature with such a key" in told


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (curve, "es256"),
        (lambda: curve(ec.SECP384R1()), "es384"),
        (lambda: curve(ec.SECP521R1()), "es512"),
        (ed25519.Ed25519PrivateKey.generate, "ed25519"),
        (lambda: rsa.generate_private_key(65537, 2048), "ps256"),
    ],
    ids=["P-256", "P-384", "P-521", "Ed25519", "RSA"],
)
def test_every_kind_of_key_that_is_taken_signs(
    tmp_path: Path, make: Callable[[], Key], algorithm: str
) -> None:
    credentials = loaded(issued(tmp_path, make()))
    assert credentials.chain.algorithm == algorithm
    credentials.probe()


@pytest.mark.parametrize("use", CLAIM_USES)
def test_every_extended_key_usage_that_is_taken_is_trusted(tmp_path: Path, use: str) -> None:
    loaded(issued(tmp_path, uses=(ObjectIdentifier(use),))).probe()


def test_certificate_that_ends_within_a_week_is_a_warning(tmp_path: Path) -> None:
    credentials = loaded(issued(tmp_path, ends=timedelta(days=8)))
    assert credentials.warnings(NOW) == ()
    (near,) = credentials.warnings(NOW + timedelta(days=2))
    assert "ends in 5 days" in near.text or "ends in 6 days" in near.text
    assert "without a time stamp" in near.text


def test_test_chain_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "chain"
    make_own_chain(folder, NOW)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(kept) == {"chain.pem", "key.pem", "root.pem"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with pytest.raises(RefusedError, match="no key is overwritten"):
        make_own_chain(folder, NOW)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
    assert list(folder.parent.iterdir()) == [folder]


def test_private_key_stands_in_no_text_of_the_credentials(tmp_path: Path) -> None:
    settings = signing_settings(tmp_path)
    credentials = loaded(settings)
    key = (tmp_path / "certificates/key.pem").read_text().splitlines()[1]
    assert key not in repr(credentials)
    assert "PRIVATE" not in repr(credentials)
