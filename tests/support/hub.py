"""A stand-in of the Hub's HTTP API, and of a release page, on real sockets.

It answers what `huggingface_hub` asks (a repository's files with their metadata; a file by commit,
LFS files by way of another host), counts the bytes it sends, and fails as it is told. No xet.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_ENDINGS = (".safetensors", ".model", ".pth")


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Fault:
    """What goes wrong when a file is asked for.

    Attributes:
        cut_after: Close the connection after so many bytes; once.
        hold_after: Send so many bytes, then nothing until `released`.
        flip: Send this byte with a bit turned.
        content: Send this instead.
        status: Answer this instead.
    """

    cut_after: int | None = None
    hold_after: int | None = None
    flip: int | None = None
    content: bytes | None = None
    status: int | None = None
    released: threading.Event = field(default_factory=threading.Event)


@dataclass
class Request:
    """One request, and the bytes of a file that were sent in answer."""

    method: str
    host: str
    path: str
    start: int
    last: int | None
    authorization: str
    sent: int = 0


@dataclass
class Hub:
    """What the server serves, and what it was asked.

    Attributes:
        commits: Repository -> commit -> file -> bytes; the last commit is the newest.
        releases: Path below the host -> bytes.
        faults: End of a file's path -> what goes wrong.
        odd_metadata: File -> what its metadata says instead.
        token: Wanted of who asks for a repository; "" for none.
        requests: All that were made.
    """

    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    releases: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    odd_metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: int | None = None
    token: str = ""
    port: int = 0
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cdn(self) -> str:
        """The same server by another name: another host, to a client."""
        return f"http://localhost:{self.port}"

    def commit(self, repository: str, files: Mapping[str, bytes]) -> str:
        """Put `files` over those of the newest commit; return the new commit."""
        history = self.commits.setdefault(repository, {})
        before = next(reversed(history.values()), {})
        name = secrets.token_hex(20)
        history[name] = {**before, **files}
        return name

    def asked_for(self, ending: str) -> list[Request]:
        """Requests for the bytes of a file."""
        asked = (r for r in self.requests if r.method == "GET" and r.last is None)
        return [request for request in asked if request.path.endswith(ending)]

    def sent(self, ending: str = "") -> int:
        """Bytes of files sent so far."""
        return sum(request.sent for request in self.asked_for(ending))


@contextmanager
def serving() -> Generator[Hub]:
    """Serve an empty hub until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        for fault in hub.faults.values():
            fault.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.served, unquote(urlsplit(self.path).path)
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
        start, _, last = asked.partition("-")
        request = Request(
            self.command,
            self.headers.get("Host", ""),
            path,
            int(start),
            int(last) if last else None,
            self.headers.get("Authorization", ""),
        )
        hub.requests.append(request)
        if hub.status is not None:
            self._plain(hub.status, b"{}")
        elif path in hub.releases:
            self._file(request, hub.releases[path])
        elif path.startswith("/cdn/"):
            _, _, repository, commit, name = path.split("/", 4)
            self._file(request, hub.commits[repository.replace("--", "/")][commit][name])
        elif hub.token and request.authorization != f"Bearer {hub.token}":
            self._plain(401, b'{"error": "Invalid username or password."}')
        elif path.startswith("/api/models/"):
            self._metadata(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            self._resolve(request, path)
        else:
            self._plain(404, b"{}")

    def _metadata(self, path: str) -> None:
        repository, _, revision = path.partition("/revision/")
        history = self.served.commits.get(repository)
        if history is None:
            self._plain(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        commit = revision or next(reversed(history))
        if commit not in history:
            self._plain(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [self._sibling(name, data) for name, data in history[commit].items()]
        told = {"id": repository, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        self._plain(200, json.dumps(told).encode())

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        told: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_blob_id(data)}
        if name.endswith(LFS_ENDINGS):
            digest = hashlib.sha256(data).hexdigest()
            told["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
        return told | self.served.odd_metadata.get(name, {})

    def _resolve(self, request: Request, path: str) -> None:
        repository, _, rest = path[1:].partition("/resolve/")
        commit, _, name = rest.partition("/")
        data = self.served.commits.get(repository, {}).get(commit, {}).get(name)
        if data is None:
            self._plain(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        elif name.endswith(LFS_ENDINGS):
            place = f"/cdn/{repository.replace('/', '--')}/{commit}/{name}"
            self._plain(302, b"", {"Location": f"{self.served.cdn}{place}"})
        else:
            self._file(request, data)

    def _plain(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, request: Request, data: bytes) -> None:
        faults = self.served.faults
        fault = next((f for end, f in faults.items() if request.path.endswith(end)), Fault())
        if self.command == "HEAD" or request.last is not None:
            fault = Fault()  # a question for size and ETag
        if fault.status is not None:
            self._plain(fault.status, b"{}")
            return
        data = data if fault.content is None else fault.content
        if fault.flip is not None:
            data = data[: fault.flip] + bytes([data[fault.flip] ^ 4]) + data[fault.flip + 1 :]
        if request.start >= len(data) and request.start:
            self._plain(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        last = len(data) - 1 if request.last is None else request.last
        body = data[request.start : last + 1]
        partial = request.start > 0 or request.last is not None
        self.send_response(206 if partial else 200)
        if partial:
            told = f"bytes {request.start}-{last}/{len(data)}"
            self.send_header("Content-Range", told)
        self.send_header("ETag", f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self._send(request, body, fault)

    def _send(self, request: Request, body: bytes, fault: Fault) -> None:
        stop = fault.cut_after if fault.cut_after is not None else fault.hold_after
        first = body if stop is None else body[: max(stop - request.start, 0)]
        try:
            self.wfile.write(first)
            self.wfile.flush()
            request.sent = len(first)
            if fault.cut_after is not None:
                fault.cut_after = None
                self.close_connection = True
            elif stop is not None:
                fault.released.wait(60)
                self.wfile.write(body[len(first) :])
                request.sent = len(body)
        except ConnectionError:
            self.close_connection = True
