"""A headless Chromium for tests of pages, driven by the WebDriver protocol (https://www.w3.org/TR/webdriver2)."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""Key of an element's id, as the protocol says."""

_OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


class Browser:
    """One window.

    Args:
        address: of the session.
        client: asks the driver.
    """

    def __init__(self, address: str, client: httpx.Client) -> None:
        self._address = address
        self._client = client

    def call(self, method: str, path: str, **body: object) -> Any:
        content = body if method == "POST" else None
        answer = self._client.request(method, f"{self._address}/{path}", json=content).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['message'].splitlines()[0]}")
        return answer

    def open(self, url: str) -> None:
        self.call("POST", "url", url=url)

    def find(self, css: str, seconds: float = 20) -> str:
        """Wait for an element that is displayed, and return its id."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for found in self.call("POST", "elements", using="css selector", value=css):
                if self._is_displayed(found[_ELEMENT]):
                    return str(found[_ELEMENT])
            time.sleep(0.1)
        raise AssertionError(f"no `{css}` in {self.text('body', 1)!r}")

    def _is_displayed(self, element: str) -> bool:
        try:
            return bool(self.call("GET", f"element/{element}/displayed"))
        except AssertionError as error:
            if "stale element" in str(error):  # the page was drawn anew meanwhile
                return False
            raise

    def as_argument(self, element: str) -> dict[str, str]:
        """Return an element as an argument of `run`."""
        return {_ELEMENT: element}

    def click(self, css: str) -> None:
        element = self.find(css)
        self.run("arguments[0].scrollIntoView({block: 'center'})", self.as_argument(element))
        self.call("POST", f"element/{element}/click")

    def click_text(self, css: str, text: str) -> None:
        """Click the element with this text."""
        self.run(
            "for (const one of document.querySelectorAll(arguments[0]))"
            " if (one.textContent.trim() === arguments[1]) { one.click(); return }"
            " throw new Error('no ' + arguments[1])",
            css,
            text,
        )

    def type(self, css: str, text: str) -> None:
        self.call("POST", f"element/{self.find(css)}/value", text=text)

    def upload(self, css: str, *files: Path) -> None:
        """Give files to an input, which may be hidden."""
        found = self.call("POST", "element", using="css selector", value=css)
        self.call("POST", f"element/{found[_ELEMENT]}/value", text="\n".join(map(str, files)))

    def text(self, css: str, seconds: float = 20) -> str:
        return str(self.call("GET", f"element/{self.find(css, seconds)}/text"))

    def wait_for(self, css: str, text: str, seconds: float = 20) -> str:
        """Wait until an element has a text in it, and return all of its text."""
        end = time.monotonic() + seconds
        seen = ""
        while time.monotonic() < end:
            seen = self.text(css, seconds)
            if text in seen:
                return seen
            time.sleep(0.1)
        raise AssertionError(f"`{css}` has {seen!r}")

    def run(self, script: str, *arguments: object) -> Any:
        return self.call("POST", "execute/sync", script=script, args=list(arguments))

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call."""
        entries = self.call("POST", "se/log", type="performance")
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Return what the page wrote into the browser's console as an error."""
        return [entry["message"] for entry in self.call("POST", "se/log", type="browser")]

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("GET", "screenshot")))


@contextmanager
def chromium(folder: Path, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Browser]:
    """Start a headless Chromium that reaches this machine only; skip the test where there is none.

    Args:
        folder: for its profile.
        width: of the window, pixels; below 500 a phone is emulated.
        height: of the window, pixels.
        dark: whether the user prefers dark pages.
    """
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or program is None:
        pytest.skip("needs chromium and chromedriver")
    # A proxy of the environment is not for this machine.
    with (
        subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process,
        httpx.Client(timeout=60, trust_env=False) as client,
    ):
        assert process.stdout is not None
        line = next(line for line in process.stdout if "started successfully on port" in line)
        port = line.rstrip(".\n").rpartition(" ")[2]
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder}", f"--window-size={width},{height}", _OFFLINE,
        ]  # fmt: skip
        chrome: dict[str, object] = {"binary": program, "args": flags + ["--force-dark-mode"] * dark}
        if width < 500:
            chrome["mobileEmulation"] = {
                "deviceMetrics": {"width": width, "height": height, "pixelRatio": 1}
            }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": chrome,
            "goog:loggingPrefs": {"performance": "ALL", "browser": "SEVERE"},
        }
        root = f"http://127.0.0.1:{port}/session"
        try:
            session = client.post(root, json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
            assert "sessionId" in session, session
            address = f"{root}/{session['sessionId']}"
            yield Browser(address, client)
            client.delete(address)
        finally:
            process.terminate()
