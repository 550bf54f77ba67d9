"""One commit to a Hub that fails: what the client does, from the server's log."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune.errors import UserError
from finetune.publish import upload
from finetune.publish.contents import Contents
from finetune.publish.options import PushOptions
from finetune.publish.results import PushResult
from tests.hub.server import READER, STRANGER

if TYPE_CHECKING:
    from tests.hub.client import ConnectedHub

CARD = b"---\nlicense: gemma\n---\n# Digits\n"
FILES = {
    "README.md": CARD,
    "config.yaml": b"seed: 0\n",
    "metrics.json": b"{}\n",
    "adapter_model.safetensors": bytes(90_000),
}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(upload, "_sleep", lambda seconds: None)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(FILES["adapter_model.safetensors"])
    return file


def push(weights: Path, **options: Any) -> PushResult:
    destination = upload.check_destination(PushOptions(repo="ann/digits", **options))
    files: dict[str, Path | bytes] = {
        name: FILES[name] for name in ("README.md", "config.yaml", "metrics.json")
    }
    files[weights.name] = weights
    return upload.push(Contents(files), destination, "Push digits")


def refusal(weights: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        push(weights, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("GET /api/whoami", {"status": 503}),
        ("GET /api/models/ann/digits$", {"status": 500}),
        ("POST /api/repos/create", {"status": 429, "retry_after": 2}),
        ("POST /api/validate-yaml", {"status": 502}),
        ("POST .*/preupload/", {"status": 500, "times": 2}),
        ("POST .*/objects/batch", {"status": 503}),
        ("PUT /objects/", {"status": 503}),
        ("PUT /objects/", {"cut": 1000}),
        ("POST /api/verify/", {"status": 500}),
        ("POST .*/commit/", {"status": 503}),
        ("POST .*/commit/", {"cut": 10}),
        ("GET .*/tree/", {"status": 500}),
        ("GET .*/refs", {"cut": 3}),
    ],
)
def test_a_failure_that_passes_is_overcome(
    weights: Path, hub: "ConnectedHub", where: str, fault: dict[str, Any]
) -> None:
    hub.fail_next(where, **fault)
    push(weights)
    assert len(hub.asked(where)) > fault.get("times", 1)
    assert hub.files("ann/digits") == FILES
    assert hub.commits("ann/digits") == ["Push digits"]


def test_a_commit_whose_answer_was_lost_is_not_made_twice(weights: Path, hub: "ConnectedHub") -> None:
    hub.fail_next("POST .*/commit/", 503, then=hub.answer_last)
    assert push(weights).changed
    assert [one.status for one in hub.asked("POST .*/commit/")] == [503, 412]
    assert hub.commits("ann/digits") == ["Push digits"]


@pytest.mark.parametrize(
    ("where", "fault", "expected"),
    [
        ("POST .*/commit/", {"status": 500, "times": -1}, "the Hub cannot answer now (status 500)"),
        (
            "POST .*/commit/",
            {"status": 403},
            "forbids this to the token in use (403). It says: no.",
        ),
        ("POST .*/commit/", {"status": 409}, "the Hub refuses the request (status 409)"),
        ("POST .*/commit/", {"cut": 10, "times": -1}, "the connection was cut"),
        ("POST .*/preupload/", {"status": 404, "code": "RepoNotFound"}, "There is no repository"),
        ("PUT /objects/", {"status": 403}, "forbids this to the token in use (403)"),
        ("PUT /objects/", {"cut": 99, "times": -1}, "the connection was cut"),
        ("POST /api/repos/create", {"status": 403}, "forbids this to the token in use (403)"),
        (
            "POST /api/repos/create",
            {"status": 429, "retry_after": 4000},
            "Try again in 4000 seconds",
        ),
    ],
)
def test_a_failure_that_stays_publishes_nothing_and_the_next_push_goes_on(
    weights: Path, hub: "ConnectedHub", where: str, fault: dict[str, Any], expected: str
) -> None:
    hub.fail_next(where, message="no", **fault)
    message = refusal(weights)
    assert expected in message
    assert "Nothing was published; the same command goes on with what is missing." in message
    assert ("model", "ann/digits") not in hub.repositories or hub.files("ann/digits") == {}
    hub.faults.clear()
    arrived = set(hub.objects)
    before = len(hub.log)
    push(weights)
    assert hub.files("ann/digits") == FILES
    again = {one.path.rpartition("/")[2] for one in hub.log[before:] if one.method == "PUT"}
    assert not again & arrived


def test_a_commit_by_somebody_else_meanwhile_is_left_as_it_is(weights: Path, hub: "ConnectedHub") -> None:
    hub.fail_next("POST .*/commit/", then=lambda: _add(hub))
    assert "the branch main got another commit during the push" in refusal(weights)
    assert hub.files("ann/digits") == {"mine.txt": b"mine"}


def test_a_repository_that_has_something_else_afterwards_is_reported(
    weights: Path, hub: "ConnectedHub"
) -> None:
    hub.fail_next("POST .*/commit/", then=lambda: hub.objects.update(dict.fromkeys(hub.objects, b"other")))
    assert re.search(r"ann/digits does not have what was sent: \S+safetensors", refusal(weights))


def _add(hub: "ConnectedHub") -> None:
    hub.add("ann/digits", {"mine.txt": b"mine"})


def test_a_card_that_the_hub_refuses_is_named_before_anything_is_uploaded(
    weights: Path, hub: "ConnectedHub"
) -> None:
    destination = upload.check_destination(PushOptions(repo="ann/digits"))
    with pytest.raises(UserError, match="The Hub refuses the model card: .*must be an object"):
        upload.push(
            Contents({"README.md": b"---\n- a\n---\n", "model.safetensors": weights}), destination, "x"
        )
    assert hub.files("ann/digits") == {}
    assert not hub.asked("PUT ")


def test_a_wait_that_the_hub_asks_for_is_kept(
    weights: Path, hub: "ConnectedHub", monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(upload, "_sleep", waited.append)
    hub.fail_next("GET /api/whoami", 429, retry_after=9)
    hub.fail_next("POST .*/commit/", 500, times=2)
    push(weights)
    assert waited == [9, 1, 4]


def test_a_long_file_goes_in_parts_and_the_token_stays_at_the_hub(
    weights: Path, hub: "ConnectedHub"
) -> None:
    hub.part_size = 40_000
    push(weights)
    parts = hub.asked("PUT .*/parts/")
    assert [(len(one.body), one.account) for one in parts] == [
        (40_000, None),
        (40_000, None),
        (10_000, None),
    ]


def add_public(hub: "ConnectedHub", _: pytest.MonkeyPatch) -> None:
    hub.add("ann/digits")


def add_dataset(hub: "ConnectedHub", _: pytest.MonkeyPatch) -> None:
    hub.add("ann/digits", kind="dataset")


def add_tag(hub: "ConnectedHub", _: pytest.MonkeyPatch) -> None:
    repository = hub.add("ann/digits", private=True)
    repository.tags["v1"] = repository.branches["main"]


def as_account(token: str | None) -> Callable[["ConnectedHub", pytest.MonkeyPatch], None]:
    return lambda hub, patch: hub.login(patch, token)


@pytest.mark.parametrize(
    ("change", "revision", "expected"),
    [
        pytest.param(as_account(None), None, "Nobody is logged in to the Hub", id="no token"),
        pytest.param(as_account(READER), None, "The token of `ann` may only read", id="read-only"),
        pytest.param(as_account("hf_" + "x" * 30), None, "does not accept the token (401)", id="unknown"),
        pytest.param(
            as_account(STRANGER),
            None,
            "`bob`, who may not write there. Choose one of: bob/digits",
            id="another's",
        ),
        pytest.param(add_public, None, "ann/digits is public on the Hub, but private=true", id="public"),
        pytest.param(add_dataset, None, "ann/digits is a dataset on the Hub", id="a dataset"),
        pytest.param(add_tag, "v1", "revision=v1 is a tag or a commit", id="a tag"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_without_a_change(
    weights: Path,
    hub: "ConnectedHub",
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[["ConnectedHub", pytest.MonkeyPatch], None],
    revision: str | None,
    expected: str,
) -> None:
    change(hub, monkeypatch)
    before = set(hub.repositories)
    assert expected in refusal(weights, revision=revision)
    assert set(hub.repositories) == before
    assert not [one for one in hub.log if one.method in {"POST", "PUT", "DELETE"}]


@pytest.mark.parametrize("revision", [None, "v1"])
def test_files_that_no_push_wrote_are_not_replaced(
    weights: Path, hub: "ConnectedHub", revision: str | None
) -> None:
    theirs = {"model.safetensors": b"theirs", "config.json": b"{}"}
    hub.add("ann/digits", {**theirs, "LICENSE": b"theirs"}, private=True)
    message = refusal(weights, revision=revision)
    assert "ann/digits has config.json, model.safetensors, which no push wrote" in message
    assert hub.files("ann/digits") == {**theirs, "LICENSE": b"theirs"}
    assert not [one for one in hub.log if one.method in {"POST", "PUT", "DELETE"}]


def test_a_repository_with_a_first_readme_is_filled(weights: Path, hub: "ConnectedHub") -> None:
    hub.add("ann/digits", {"README.md": b"mine", "LICENSE": b"mine"}, private=True)
    push(weights)
    assert hub.files("ann/digits") == {**FILES, "LICENSE": b"mine"}
