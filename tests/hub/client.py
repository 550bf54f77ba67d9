"""Points the Hub's client to a server on loopback: in this process, and by the environment of another."""

from pathlib import Path
from types import SimpleNamespace

import datasets.config
import huggingface_hub
import pytest
from huggingface_hub import constants, file_download, hf_api
from huggingface_hub.utils import _http

from tests.hub.server import WRITER, LocalHub


class ConnectedHub(LocalHub):
    """A Hub that the client of this process uses.

    Attributes:
        home: HF_HOME of the client.
        waited: seconds that the client wanted to wait between attempts; it does not.
    """

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home
        self.waited: list[float] = []

    @property
    def env(self) -> dict[str, str]:
        """The environment with which another process uses this Hub, with a token that may write."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.home),
            "HF_HUB_CACHE": str(self.home / "hub"),
            "HF_DATASETS_CACHE": str(self.home / "datasets"),
            "HF_TOKEN": WRITER,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def connect(self, patch: pytest.MonkeyPatch) -> None:
        """Let the client of this process use this Hub until the patch is undone."""
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in self.env.items():
            patch.setenv(name, value)
        replaced: list[tuple[object, str, object]] = [
            (constants, "ENDPOINT", self.url),
            (constants, "HUGGINGFACE_CO_URL_TEMPLATE", template),
            (constants, "HF_HOME", str(self.home)),
            (constants, "HF_HUB_CACHE", str(self.home / "hub")),
            (constants, "HF_XET_CACHE", str(self.home / "xet")),
            (constants, "HF_TOKEN_PATH", str(self.home / "token")),
            (constants, "HF_STORED_TOKENS_PATH", str(self.home / "stored_tokens")),
            (constants, "HF_HUB_DISABLE_XET", True),
            (constants, "HF_HUB_OFFLINE", False),
            (hf_api.api, "endpoint", self.url),
            (datasets.config, "HF_ENDPOINT", self.url),
            (
                datasets.config,
                "HUB_DATASETS_URL",
                self.url + "/datasets/{repo_id}/resolve/{revision}/{path}",
            ),
            (datasets.config, "HF_DATASETS_CACHE", self.home / "datasets"),
            (constants, "DOWNLOAD_CHUNK_SIZE", 4096),
            (_http, "time", SimpleNamespace(sleep=self.waited.append)),
            (file_download, "time", SimpleNamespace(sleep=self.waited.append)),
        ]
        for module, attribute, substitute in replaced:
            patch.setattr(module, attribute, substitute)
        huggingface_hub.close_session()

    def login(self, patch: pytest.MonkeyPatch, token: str | None) -> None:
        """Change the token of this process; None logs out."""
        if token is None:
            patch.delenv("HF_TOKEN")
        else:
            patch.setenv("HF_TOKEN", token)
