"""Loading through the Hub's real client: what works, and what each failure says."""

import io
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value

from finetune.data.images import encode_png
from finetune.data.published import Hub
from finetune.errors import UserError
from finetune.model.load import TINY_BASE, find_file, load_config, load_model, load_processor
from tests.conftest import noise_image
from tests.hub.server import READER, STRANGER

if TYPE_CHECKING:
    from tests.hub.client import ConnectedHub

Command = Callable[..., tuple[int, str, str]]

BASE = {file.name: file.read_bytes() for file in TINY_BASE.iterdir() if file.is_file()}


def table(rows: int = 2) -> bytes:
    image = {"bytes": encode_png(noise_image(0)), "path": None}
    stream = io.BytesIO()
    columns = {"image": [image] * rows, "caption": ["a cup"] * rows}
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def load_checkpoint(revision: str | None = None) -> object:
    return load_config("ann/model", revision)


def load_adapter(revision: str | None = None) -> object:
    return find_file("ann/model", "adapter_config.json", "adapter", revision)


def load_dataset(revision: str | None = None) -> object:
    columns = {"image": "image", "captions": "caption"}
    return Hub(path="ann/model", train=None, revision=revision, columns=columns).load()


LOADERS = [
    pytest.param(load_checkpoint, "checkpoint", id="checkpoint"),
    pytest.param(load_adapter, "adapter", id="adapter"),
    pytest.param(load_dataset, "dataset", id="dataset"),
]


@pytest.fixture
def repositories(hub: "ConnectedHub") -> "ConnectedHub":
    hub.add("ann/model", {"config.json": BASE["config.json"], "adapter_config.json": b"{}"})
    hub.add("ann/model", {"data/validation-00000-of-00001.parquet": table()}, kind="dataset")
    return hub


def refusal(load: Callable[..., object], **options: Any) -> str:
    with pytest.raises(UserError) as error:
        load(**options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("load", "kind"), LOADERS)
def test_what_is_there_is_loaded(
    repositories: "ConnectedHub", load: Callable[..., object], kind: str
) -> None:
    assert load() is not None


@pytest.mark.parametrize(("load", "kind"), LOADERS)
@pytest.mark.parametrize("token", [None, STRANGER], ids=["logged out", "somebody else"])
def test_private_and_gated_repositories_say_what_to_do(
    repositories: "ConnectedHub",
    monkeypatch: pytest.MonkeyPatch,
    load: Callable[..., object],
    kind: str,
    token: str | None,
) -> None:
    repositories.login(monkeypatch, token)
    for repository in repositories.repositories.values():
        repository.gated = True
    message = refusal(load)
    assert message.startswith(f"The {kind} `ann/model` is gated. Accept its licence on its Hub page (http")
    assert "hf auth login" in message
    assert ("has no access yet" in message) is (token is not None)
    for repository in repositories.repositories.values():
        repository.private, repository.gated = True, False
    message = refusal(load)
    assert message.startswith(f"There is no {kind} `ann/model` on the Hub")
    assert ("hf auth login" in message) is (token is None)
    repositories.login(monkeypatch, READER)
    assert load() is not None


@pytest.mark.parametrize(("load", "kind"), LOADERS)
def test_a_revision_is_loaded_and_a_wrong_one_is_named(
    repositories: "ConnectedHub", load: Callable[..., object], kind: str
) -> None:
    for repository in repositories.repositories.values():
        repository.tags["v1"] = repository.branches["main"]
        repository.put({"config.json": b"{", "data/validation-00000-of-00001.parquet": b""})
    assert load(revision="v1") is not None
    assert f"The {kind} `ann/model` has no revision `v9`" in refusal(load, revision="v9")


@pytest.mark.parametrize(("load", "kind"), LOADERS)
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param({"status": 503, "times": -1}, "the Hub cannot answer now (status 503)", id="503"),
        pytest.param({"status": 500, "times": -1}, "the Hub cannot answer now (status 500)", id="500"),
        pytest.param({"status": 403, "times": -1}, "forbids this to the token in use (403)", id="403"),
        pytest.param(
            {"status": 401, "times": -1, "message": "Invalid credentials in Authorization header"},
            "does not accept the token (401)",
            id="401",
        ),
        pytest.param(
            {"status": 429, "times": -1, "retry_after": 30}, "(429). Try again in 30 seconds", id="429"
        ),
    ],
)
def test_the_hubs_own_failures_are_one_line(
    repositories: "ConnectedHub", load: Callable[..., object], kind: str, fault: Any, expected: str
) -> None:
    repositories.fail_next("", **fault)
    message = refusal(load)
    assert f"The {kind} `ann/model`" in message
    assert expected in message


@pytest.mark.parametrize(("load", "kind"), LOADERS)
def test_a_network_that_is_away_or_forbidden_is_named(
    repositories: "ConnectedHub", monkeypatch: pytest.MonkeyPatch, load: Callable[..., object], kind: str
) -> None:
    repositories.stop()
    where = "" if kind == "dataset" else f": no connection to {repositories.url}"
    assert f"The {kind} `ann/model` cannot be reached{where}" in refusal(load)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "cannot be reached" in refusal(load)


def test_a_connection_cut_again_and_again_is_named(repositories: "ConnectedHub") -> None:
    repositories.fail_next("GET /api/resolve-cache", cut=10, times=-1)
    assert "The checkpoint `ann/model`" in refusal(load_checkpoint)


def test_a_connection_cut_once_is_continued(hub: "ConnectedHub") -> None:
    hub.add("ann/model", BASE)
    hub.fail_next("GET /objects", cut=200_000)
    model = load_model("ann/model", load_config("ann/model"))
    assert model is not None
    ranges = [one.headers.get("range") for one in hub.asked("GET /objects")]
    assert any(ranges), ranges


def test_a_full_disk_is_named(repositories: "ConnectedHub", monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", write)
    assert "The checkpoint `ann/model` does not fit on the disk" in refusal(load_checkpoint)


def test_a_repository_without_the_file_is_named(hub: "ConnectedHub") -> None:
    hub.add("ann/model", {"other.txt": b""})
    assert "`ann/model` is not a complete checkpoint: it has no config.json" in refusal(load_checkpoint)
    assert "`ann/model` is not a complete adapter" in refusal(load_adapter)


@pytest.mark.parametrize("name", ["not a name", "a/b/c", "a--b/c", "-a/b"])
def test_what_is_no_name_is_named(hub: "ConnectedHub", name: str) -> None:
    with pytest.raises(UserError, match="is neither a folder nor a Hub id"):
        load_config(name)
    assert not hub.log


def test_weights_and_processor_have_the_same_messages(hub: "ConnectedHub") -> None:
    hub.add("ann/model", BASE)
    config = load_config("ann/model")
    hub.repositories["model", "ann/model"].gated = True
    hub.accounts.clear()
    shutil.rmtree(hub.home)
    for load in (lambda: load_processor("ann/model"), lambda: load_model("ann/model", config)):
        assert "does not accept the token" in refusal(load)


def test_data_on_the_hub_are_recognized_and_loaded(hub: "ConnectedHub", command: Command) -> None:
    rows = Dataset.from_dict(
        {"image": [noise_image(number) for number in range(3)], "caption": ["a cup"] * 3},
        features=Features({"image": Image(), "caption": Value("string")}),
    )
    stream = io.BytesIO()
    rows.to_parquet(stream)
    for split in ("train", "validation"):
        hub.add("ann/cups", {f"data/{split}-00000-of-00001.parquet": stream.getvalue()}, kind="dataset")
    hub.repositories["dataset", "ann/cups"].private = True
    words = ("data=ann/cups", "model=tiny")
    code, out, err = command("plan", *words, "trainer.global_batch_size=1")
    assert code == 0, err
    assert "dataset.path=ann/cups" in out
    assert "3 train and 3 validation examples" in out
    assert [one.account for one in hub.asked("GET /objects")] == [None] * len(hub.asked("GET /objects"))


@pytest.mark.parametrize(
    ("token", "gated", "expected"),
    [
        (None, False, "There is no dataset `ann/cups` on the Hub"),
        (STRANGER, True, "The dataset `ann/cups` is gated"),
    ],
)
def test_data_on_the_hub_that_may_not_be_read_say_so(
    hub: "ConnectedHub",
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    token: str | None,
    gated: bool,
    expected: str,
) -> None:
    repository = hub.add("ann/cups", {"data/train-0.parquet": table()}, kind="dataset")
    repository.private, repository.gated = not gated, gated
    hub.login(monkeypatch, token)
    code, _, err = command("plan", "data=ann/cups", "model=tiny")
    assert code == 2
    assert f"error: data=ann/cups: no such file or folder here. {expected}" in err


def test_data_on_a_hub_that_is_away_say_so(hub: "ConnectedHub", command: Command) -> None:
    hub.stop()
    code, _, err = command("plan", "data=ann/cups", "model=tiny")
    assert code == 2
    assert "data=ann/cups: no such file or folder here." in err
    assert "ann/cups` cannot be reached" in err
