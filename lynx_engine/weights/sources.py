"""Asks the sources of weights what they hold: the Hub's metadata, a release's headers.

It moves no weights. The Hub's client knows mirrors (HF_ENDPOINT) and tokens (HF_TOKEN); whatever
goes wrong on the way becomes a letter that holds neither token nor signed address.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import LynxError, PausedError, Problem, RefusedError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

    from lynx_engine.variants.spec import WeightFile
    from lynx_engine.weights.origins import HubFolder, ReleaseFile

OUTCOME = "nothing more was fetched"
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its source describes it.

    Attributes:
        name: Its name in the public layout.
        url: Where its bytes are.
        source: That source in words.
        size: Bytes; None where the source does not say.
        sha256: As the source's metadata states it, "" where it states none.
        git_blob: Git's id of the bytes (a sha1), "" where there is none.
        revision: The Hub's commit; "" for a release.
        key: Tells these bytes from others of that name while half of them are here; "" if the
            source gives nothing to tell them by.
        on_hub: Whether the Hub's token may be sent with the request.
    """

    name: str
    url: str
    source: str
    size: int | None
    sha256: str
    git_blob: str
    revision: str
    key: str
    on_hub: bool


def describe_hub(weight: WeightFile, origin: HubFolder, *, revision: str) -> list[RemoteFile]:
    """Return the files of a Hub folder that are read, as the Hub's metadata lists them.

    Args:
        weight: The entry of the public layout they make up.
        origin: The repository and which files of it.
        revision: The pinned commit; "" for the newest.

    Raises:
        RefusedError: If the repository, the commit or the files cannot be had.
        PausedError: If the Hub cannot be reached, or is in trouble.
    """
    from huggingface_hub import HfApi, constants

    what = f"{origin.repository} at {revision[:12]}" if revision else origin.repository
    with network_letters(what, constants.ENDPOINT):
        info = HfApi(library_name="lynx_engine").model_info(
            origin.repository,
            revision=revision or None,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit) or revision not in {"", commit}:
        told = f"names commit {commit!r}, which is not the one asked for"
        raise RefusedError([Problem(host_of(constants.ENDPOINT), told)], outcome=OUTCOME)
    prefix = f"{origin.folder}/" if origin.folder else ""
    found = [
        _hub_file(weight, origin, sibling, sibling.rfilename.removeprefix(prefix), commit)
        for sibling in info.siblings or []
        if sibling.rfilename.startswith(prefix)
        and any(fnmatchcase(sibling.rfilename, f"{prefix}{p}") for p in origin.patterns)
    ]
    if not found:
        told = f"holds no file like {', '.join(origin.patterns)} at commit {commit}"
        raise RefusedError([Problem(weight.source, told)], outcome=OUTCOME)
    return found


def _hub_file(
    weight: WeightFile, origin: HubFolder, sibling: RepoSibling, below: str, commit: str
) -> RemoteFile:
    from huggingface_hub import hf_hub_url

    sha256 = sibling.lfs.sha256.lower() if sibling.lfs else ""
    git_blob = "" if sha256 else (sibling.blob_id or "").lower()
    size = sibling.lfs.size if sibling.lfs else sibling.size
    parts = PurePosixPath(below).parts
    if ".." in parts or below.startswith("/") or "\\" in below:
        told = f"lists a file outside of its folder ({below!r})"
        raise RefusedError([Problem(weight.source, told)], outcome=OUTCOME)
    if size is None or not (sha256 or git_blob):
        told = f"gives neither digest nor size of {below}; HF_ENDPOINT may name an odd mirror"
        raise RefusedError([Problem(weight.source, told)], outcome=OUTCOME)
    return RemoteFile(
        name=f"{weight.path}/{below}",
        url=hf_hub_url(origin.repository, sibling.rfilename, revision=commit),
        source=weight.source,
        size=size,
        sha256=sha256,
        git_blob=git_blob,
        revision=commit,
        key=sha256 or git_blob,
        on_hub=True,
    )


def describe_release(weight: WeightFile, origin: ReleaseFile, *, github: str) -> RemoteFile:
    """Return a release file, whose source states a size but no digest.

    Args:
        weight: The entry of the public layout it is.
        origin: The file.
        github: `https://github.com`, or a mirror of it.

    Raises:
        RefusedError: If there is no such file.
        PausedError: If the host cannot be reached, or is in trouble.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session, hf_raise_for_status

    url = f"{github.rstrip('/')}{origin.path}"
    with network_letters(weight.source, github):  # noqa: SIM117
        # One byte, rather than HEAD: addresses that are signed for GET refuse that.
        with get_session().stream(
            "GET",
            url,
            headers={"Accept-Encoding": "identity", "Range": "bytes=0-0"},
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            follow_redirects=True,
        ) as response:
            hf_raise_for_status(response)
            told = response.headers
    length = told.get("Content-Range", "").rpartition("/")[2] or told.get("Content-Length", "")
    size = int(length) if length.isdigit() else None
    etag = told.get("ETag", "")
    # A weak ETag promises the same meaning, not the same bytes.
    strong = etag and not etag.startswith("W/")
    return RemoteFile(
        name=weight.path,
        url=url,
        source=weight.source,
        size=size,
        sha256="",
        git_blob="",
        revision="",
        key=digest_bytes(f"{etag} {size}".encode()) if strong else "",
        on_hub=False,
    )


def headers_for(file: RemoteFile) -> Mapping[str, str]:
    """Return the headers of a request for the file: the Hub's token goes to the Hub alone."""
    from huggingface_hub.utils import build_hf_headers

    # Bytes as they are: compressed ones could not be continued in the middle.
    identity = {"Accept-Encoding": "identity"}
    return {**build_hf_headers(library_name="lynx_engine"), **identity} if file.on_hub else identity


@contextlib.contextmanager
def network_letters(what: str, endpoint: str) -> Generator[None]:
    """Turn every way the network fails into a letter.

    Args:
        what: What was asked for.
        endpoint: Whom.

    Raises:
        RefusedError: If asking again would not help.
        PausedError: If it may.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        told = "HF_HUB_OFFLINE is set, so nothing is asked of the network; unset it"
        raise RefusedError([Problem(what, told)], outcome=OUTCOME) from None
    except HfHubHTTPError as error:
        raise answer_letter(what, endpoint, error.response.status_code) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise unreachable(what, endpoint, error) from None
    except (HFValidationError, ValueError, KeyError, TypeError, AttributeError):
        told = f"does not answer as the Hub does, asked for {what}; is HF_ENDPOINT right?"
        raise RefusedError([Problem(host_of(endpoint), told)], outcome=OUTCOME) from None


def unreachable(what: str, endpoint: str, error: Exception) -> PausedError:
    """Return the letter for a host that does not answer, or stops in the middle."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return PausedError(
        f"{host_of(endpoint)}: {what} cannot be fetched ({reason}). Check the network, or name a "
        "mirror by HF_ENDPOINT (of the Hub) or LYNX_GITHUB (of GitHub), and run the same command "
        "again: it goes on where this one stopped."
    )


def answer_letter(what: str, endpoint: str, status: int) -> LynxError:
    """Return the letter for an answer that is no file."""
    host = host_of(endpoint)
    if status in {408, 429} or status >= 500:
        return PausedError(
            f"{host} answers {status} for {what}: it is overloaded or in trouble. Run the same "
            "command again later: it goes on where this one stopped."
        )
    if status in {401, 403}:
        told = (
            f"answers {status} for {what}: there is no such repository, or it wants to know who "
            "asks. Accept its terms there if it has some, and set HF_TOKEN"
        )
    elif status == 404:
        told = (
            f"answers 404 for {what}: no such repository, commit or file there. If "
            "models.lock.json pins a commit that is gone, delete its entries from it"
        )
    else:
        told = f"answers {status} for {what}"
    return RefusedError([Problem(host, told)], outcome=OUTCOME)


def host_of(url: str) -> str:
    """Return the host of a URL, without the name and password it may carry."""
    return urlsplit(url).netloc.rpartition("@")[2] or url.rpartition("@")[2]
