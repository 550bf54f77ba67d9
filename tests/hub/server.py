"""A Hub on loopback for the unmodified `huggingface_hub` client: HTTP, failures on request, and a log.

Large files are taken and given by git LFS, from a second address as on the Hub. Xet is not spoken: the
client must have HF_HUB_DISABLE_XET=1, because it does not ask the server whether it may use it.
"""

import base64
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub.store import Account, Repository

WRITER = "hf_" + "Wr1te" * 7
READER = "hf_" + "Re4d" * 8
STRANGER = "hf_" + "0ther" * 7

ACCOUNTS = {
    WRITER: Account("ann", "write", ("team",)),
    READER: Account("ann", "read", ("team",)),
    STRANGER: Account("bob", "write"),
}


@dataclass
class Exchange:
    """One request and its answer.

    Attributes:
        method: of HTTP.
        path: as it was sent, without the query.
        query: after `?`.
        account: owner of the token that came along; None without a token, `invalid` for an unknown one.
        headers: of the request, with lower-case names, without the token.
        body: of the request.
        names: files in the request.
        status: of the answer; 0 if the connection was cut.
        sent: bytes of the answer's body.
    """

    method: str
    path: str
    query: str
    account: str | None
    headers: dict[str, str]
    body: bytes = b""
    names: list[str] = field(default_factory=list)
    status: int = 0
    sent: int = 0


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Fault:
    """What happens to the next requests of a kind.

    Attributes:
        pattern: of `METHOD path`, searched for.
        times: how many requests; -1 for all.
        status: of the answer instead of the right one; None does what was asked.
        headers: of that answer.
        cut: bytes of the body after which the connection is cut: of the request if it has one, else of
            the answer.
        delay: seconds before anything is answered.
        then: called when it happens.
    """

    pattern: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0
    then: Callable[[], None] | None = None


class LocalHub:
    """The state of a Hub and its two servers; use as a context manager.

    Attributes:
        repositories: by (kind, USER/NAME).
        accounts: by token; the first two are the same user.
        objects: large files that were uploaded, by SHA-256.
        parts: of large files whose upload is not complete, by (SHA-256, number).
        part_size: bytes; a longer file is uploaded in parts.
        log: every request, in the order of their arrival.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.accounts = dict(ACCOUNTS)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.part_size = 64 * 1024**2
        self.log: list[Exchange] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self._servers: list[ThreadingHTTPServer] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for _ in range(2):
            server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            self._servers.append(server)
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the servers: from now on nothing listens at the addresses."""
        for server, thread in zip(self._servers, self._threads, strict=False):
            server.shutdown()
            thread.join(5)
            server.server_close()
        self._threads = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage_url(self) -> str:
        """Where large files are: another host, to which the client must not send its token."""
        return f"http://localhost:{self._servers[1].server_port}"

    def add(
        self,
        name: str,
        files: Mapping[str, bytes] | None = None,
        *,
        kind: str = "model",
        private: bool = False,
        gated: bool = False,
    ) -> Repository:
        """Make a repository, or add a commit with files to the one that there is."""
        repository = self.repositories.get((kind, name))
        if repository is None:
            repository = self.repositories[kind, name] = Repository(kind, name, private, gated)
        if files:
            repository.put(files)
        return repository

    def files(self, name: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """Return the contents of a repository's files, without `.gitattributes`."""
        commit = self.repositories[kind, name].find(revision)
        assert commit is not None, f"{name} has no revision {revision}"
        return {path: blob.content for path, blob in commit.files.items() if path != ".gitattributes"}

    def commits(self, name: str, branch: str = "main", kind: str = "model") -> list[str]:
        """Return the titles of a branch's commits, the newest first, without the initial one."""
        repository = self.repositories[kind, name]
        titles, oid = [], repository.branches.get(branch)
        while oid is not None:
            titles.append(repository.commits[oid].title)
            oid = repository.commits[oid].parent
        return titles[:-1]

    def fail_next(
        self,
        pattern: str,
        status: int | None = None,
        *,
        times: int = 1,
        code: str | None = None,
        message: str | None = None,
        retry_after: int | None = None,
        cut: int | None = None,
        delay: float = 0,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Let the next requests fail whose `METHOD path` has the pattern; `times=-1`: all of them.

        Args:
            pattern: regular expression, such as `POST .*/commit/`.
            status: of the answer; without it the request is served, after `delay` or until `cut`.
            times: how many requests.
            code: X-Error-Code.
            message: X-Error-Message.
            retry_after: seconds.
            cut: bytes after which the connection is cut.
            delay: seconds before the answer.
            then: called when it happens.
        """
        named = {"X-Error-Code": code, "X-Error-Message": message}
        named["Retry-After"] = None if retry_after is None else str(retry_after)
        headers = {name: value for name, value in named.items() if value is not None}
        self.faults.append(Fault(pattern, times, status, headers, cut, delay, then))

    def asked(self, pattern: str = "") -> list[Exchange]:
        """Return the requests whose `METHOD path` has the pattern."""
        return [one for one in self.log if re.search(pattern, f"{one.method} {one.path}")]

    def uploaded(self) -> list[str]:
        """Return the names of all files in commits that arrived, accepted or not."""
        return [name for one in self.asked(r"POST .*/commit/") for name in one.names]

    def received(self) -> bytes:
        """Return every body that was sent to the Hub, for a search for what must not be there.

        What a body has in base64, such as the files of a commit, comes decoded too.
        """
        bodies = [one.body for one in self.log]
        coded = [text for body in bodies for text in re.findall(rb'"([A-Za-z0-9+/]+={0,2})"', body)]
        return b"\n".join([*bodies, *(base64.b64decode(text) for text in coded if len(text) % 4 == 0)])

    def answer_last(self) -> None:
        """Do what the last request asks for, for a fault that loses only the answer."""
        from tests.hub.routes import answer

        last = self.log[-1]
        token = next(token for token, known in self.accounts.items() if known.name == last.account)
        answer(self, last, quote(last.path), parse_qs(last.query), self.accounts[token])

    def take_fault(self, method: str, path: str) -> Fault | None:
        """Return the fault for a request and count it."""
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, f"{method} {path}"):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def take(self) -> None:
        from tests.hub.routes import answer  # it imports this file

        parts = urlsplit(self.path)
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        known = self.hub.accounts.get(token)
        headers = {key.lower(): value for key, value in self.headers.items()}
        headers.pop("authorization", None)
        account = None if not token else known.name if known else "invalid"
        exchange = Exchange(self.command, unquote(parts.path), parts.query, account, headers)
        with self.hub.lock:
            self.hub.log.append(exchange)
        fault = self.hub.take_fault(self.command, exchange.path)
        cut = None if fault is None else fault.cut
        has_body = "content-length" in headers or "transfer-encoding" in headers
        if not self.read_body(exchange, cut if has_body else None):
            return
        if fault is not None:
            time.sleep(fault.delay)
            if fault.then is not None:
                fault.then()
        if fault is not None and fault.status is not None:
            text = fault.headers.get("X-Error-Message", "")
            body = b'{"error": "%s"}' % text.encode()
            found = Answer(fault.status, {"Content-Type": "application/json", **fault.headers}, body)
        else:
            found = answer(self.hub, exchange, parts.path, parse_qs(parts.query), known)
        self.send(exchange, found, None if has_body else cut)

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self.take
        raise AttributeError(name)

    def read_body(self, exchange: Exchange, cut: int | None) -> bool:
        """Read the request's body; return False if the connection was cut inside it."""
        chunks = []
        if exchange.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            length = int(exchange.headers.get("content-length", 0))
            chunks.append(self.rfile.read(length if cut is None else min(cut, length)))
        exchange.body = b"".join(chunks)
        if cut is not None:
            self.cut_connection()
        return cut is None

    def send(self, exchange: Exchange, found: Answer, cut: int | None) -> None:
        exchange.status = found.status
        body = b"" if self.command == "HEAD" else found.body
        self.send_response(found.status)
        for name, value in ({"Content-Length": str(len(found.body))} | found.headers).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body if cut is None else body[:cut])
        except OSError:  # the client has gone
            self.close_connection = True
        exchange.sent = len(body) if cut is None else min(cut, len(body))
        if cut is not None:
            self.cut_connection()

    def cut_connection(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
