"""Serves a page of Gradio on a port of its own, until it is closed."""

import asyncio
import errno
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from finetune.errors import UserError

T = TypeVar("T")

_HIDDEN = re.compile(
    r"/gradio_api/(file=(https?:|https?%3a|//)|proxy=|process_recording|run-history|runs|(undo-)?vibe-)"
    r"|/gradio_api/deep_link|/monitoring",
    re.IGNORECASE,
)
"""What Gradio serves besides the page: it fetches addresses, edits code, runs ffmpeg, counts calls."""

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'"
)
"""The browser itself refuses whatever is not from this server: the page works without a network."""

_FOLDER = "GRADIO_TEMP_DIR"
_uploads: TemporaryDirectory[str] | None = None
"""Uploaded and drawn files of all pages of this process; deleted when it ends."""

_SECONDS = 5.0
"""To start, and for connections to end."""


def import_gradio() -> Any:
    """Import Gradio.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"`demo` needs the package gradio, which cannot be imported ({error}). Install it with "
            "`pip install 'finetune-paligemma[demo]'`."
        ) from error
    return gradio


def open_port(host: str, port: int | None) -> socket.socket:
    """Listen on a port, before anything slow is done.

    Args:
        host: name or address.
        port: None or 0 for any free one.

    Raises:
        UserError: the port is in use or may not be used, or the host is not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"host={host}: no such address ({error}). host=127.0.0.1 is this machine alone, host=0.0.0.0 "
            "the network."
        ) from error
    try:
        # Otherwise a demo that has just ended keeps its port for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            text = (
                f"port={port} is in use, perhaps by another demo. Choose another, or any free one: port=0."
            )
        elif error.errno == errno.EACCES:
            text = (
                f"port={port} may not be used ({error.strerror}). Choose one above 1023, such as port=7860."
            )
        else:
            text = f"host={host} is no address of this machine ({error.strerror}). Such as host=127.0.0.1."
        raise UserError(text) from error
    return listener


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def quiet_gradio() -> Iterator[None]:
    """Keep Gradio from reporting its use while a page is built, and from writing into a shared folder."""
    global _uploads
    if _uploads is None and not os.environ.get(_FOLDER):
        _uploads = TemporaryDirectory(prefix="finetune-demo-uploads-", ignore_cleanup_errors=True)
        # Of the process, and for good: Gradio looks it up for each file, to refuse those outside.
        os.environ[_FOLDER] = _uploads.name
    ours = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def build_apart(build: Callable[[], T]) -> T:
    """Return what a function of Gradio builds, and leave the event loop of this thread alone.

    Where no event loop runs, Gradio makes one for each of its locks, sets it, and never closes it.
    """

    async def call() -> T:
        return build()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, call()).result()


class Guard:
    """Answers no request for more than the page, and lets no page ask for anything of other servers.

    Args:
        app: an ASGI application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] == "http" and _HIDDEN.match(scope["path"]):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"not part of this page"})
            return

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = {
                    b"content-security-policy": _POLICY.encode(),
                    b"x-content-type-options": b"nosniff",
                    b"referrer-policy": b"same-origin",
                }
                message = {**message, "headers": [*message.get("headers", ()), *headers.items()]}
            await send(message)

        await self._app(scope, receive, send_with_policy)


def mount(page: Any, listener: socket.socket, shared: Path, most_bytes: int, look: dict[str, Any]) -> Any:
    """Return a page as an ASGI application.

    Args:
        page: Gradio's blocks.
        listener: the socket that it will be served at.
        shared: a folder whose files the page shows.
        most_bytes: of an uploaded file.
        look: theme and style.
    """
    from gradio import mount_gradio_app
    from gradio.routes import FastAPI

    host, port = listener.getsockname()[:2]
    app = mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        server_name=host,
        server_port=port,
        footer_links=["api", "settings"],
        run_history=False,
        allowed_paths=[str(shared)],
        show_error=True,
        max_file_size=most_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        **look,
    )
    # Only then are files refused that nobody uploaded; Gradio's own `launch` sets it too.
    page.has_launched = True
    return Guard(app)


class Server:
    """An application that is served by a thread.

    Args:
        app: as `mount` returns it.
        listener: listens already.

    Raises:
        UserError: it does not start.
    """

    def __init__(self, app: Any, listener: socket.socket) -> None:
        from gradio.http_server import uvicorn

        settings = uvicorn.Config(
            app, log_level="error", lifespan="on", timeout_graceful_shutdown=1, access_log=False
        )
        self._listener = listener
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(_SECONDS / 0.02)):
            if self._server.started or not self._thread.is_alive():
                break
            waiting.wait(0.02)
        if not self._server.started:
            self.close()
            raise UserError("The page cannot be served: its server did not start.")

    def close(self) -> None:
        """Stop serving, and free the port."""
        self._server.should_exit = True
        self._thread.join(_SECONDS)
        self._listener.close()


def name_url(listener: socket.socket, host: str) -> str:
    """Return the address to type into a browser."""
    port = listener.getsockname()[1]
    if host in {"0.0.0.0", "::", ""}:
        host = "localhost"
    return f"http://[{host.strip('[]')}]:{port}" if ":" in host else f"http://{host}:{port}"
