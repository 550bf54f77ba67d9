"""The unmodified client of the Hub against the server of the tests."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import CommitOperationAdd, HfApi, get_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from finetune.hub import HTTP
from tests.hub.client import ConnectedHub
from tests.hub.server import READER, STRANGER, WRITER

LARGE = bytes(range(256)) * 400
CARD = b"---\nlicense: gemma\n---\n# A\n"


def commit(api: HfApi, files: dict[str, bytes], name: str = "ann/model", **options: Any) -> Any:
    operations = [CommitOperationAdd(path, io.BytesIO(content)) for path, content in files.items()]
    return api.create_commit(name, operations, commit_message="push", **options)


@pytest.fixture
def api(hub: ConnectedHub) -> HfApi:
    return HfApi()


def test_what_is_committed_is_downloaded_again(hub: ConnectedHub, api: HfApi) -> None:
    assert api.create_repo("ann/model", private=True).repo_id == "ann/model"
    made = commit(api, {"README.md": CARD, "sub/model.safetensors": LARGE})
    assert hub.files("ann/model") == {"README.md": CARD, "sub/model.safetensors": LARGE}
    assert hub.uploaded() == ["README.md", "sub/model.safetensors"]
    assert api.model_info("ann/model", files_metadata=True).sha == made.oid
    for name, content in hub.files("ann/model").items():
        assert Path(hf_hub_download("ann/model", name, revision=made.oid)).read_bytes() == content
    folder = Path(snapshot_download("ann/model"))
    assert (folder / "sub/model.safetensors").read_bytes() == LARGE
    listed = {
        file.path: file.size
        for file in api.list_repo_tree("ann/model", recursive=True)
        if hasattr(file, "size")
    }
    assert listed["sub/model.safetensors"] == len(LARGE)
    assert [one.title for one in api.list_repo_commits("ann/model")] == ["push", "initial commit"]


def test_large_files_go_to_the_storage_without_the_token(hub: ConnectedHub, api: HfApi) -> None:
    api.create_repo("ann/model")
    commit(api, {"model.safetensors": LARGE})
    hf_hub_download("ann/model", "model.safetensors")
    stored = hub.asked("/objects/[0-9a-f]+$")
    assert [(one.method, one.account) for one in stored] == [("PUT", None), ("GET", None)]
    assert WRITER.encode() not in hub.received()


def test_a_long_file_is_uploaded_in_parts(hub: ConnectedHub, api: HfApi) -> None:
    hub.part_size = 30_000
    api.create_repo("ann/model")
    commit(api, {"model.safetensors": LARGE})
    assert [len(one.body) for one in hub.asked("PUT .*/parts/")] == [30_000, 30_000, 30_000, 12_400]
    assert hub.files("ann/model") == {"model.safetensors": LARGE}


def test_what_is_there_is_not_sent_again(hub: ConnectedHub, api: HfApi) -> None:
    api.create_repo("ann/model")
    commit(api, {"config.json": b"{}", "model.safetensors": LARGE})
    commit(api, {"config.json": b"{}", "model.safetensors": LARGE})
    assert len(hub.asked("POST .*/commit/")) == 1
    assert len(hub.asked("PUT ")) == 1


def test_branches_tags_and_conflicts(hub: ConnectedHub, api: HfApi) -> None:
    api.create_repo("ann/model")
    api.create_branch("ann/model", branch="v/2")
    first = commit(api, {"a.txt": b"1"}, revision="v/2")
    api.create_tag("ann/model", tag="one", revision="v/2")
    assert hub.files("ann/model", "v/2") == {"a.txt": b"1"}
    assert hub.files("ann/model") == {}
    assert api.model_info("ann/model", revision="one").sha == first.oid
    assert {branch.name for branch in api.list_repo_refs("ann/model").branches} == {"main", "v/2"}
    with pytest.raises(HfHubHTTPError) as refused:
        commit(api, {"a.txt": b"2"}, parent_commit=first.oid)
    assert refused.value.response.status_code == 412
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_branch("ann/model", branch="v/2")
    assert refused.value.response.status_code == 409
    with pytest.raises(RevisionNotFoundError):
        commit(api, {"a.txt": b"2"}, revision="v3")


@pytest.mark.parametrize(
    ("token", "kind", "error"),
    [
        pytest.param(None, "private", RepositoryNotFoundError, id="private, nobody"),
        pytest.param(STRANGER, "private", RepositoryNotFoundError, id="private, somebody"),
        pytest.param(None, "gated", GatedRepoError, id="gated, nobody"),
        pytest.param(STRANGER, "gated", GatedRepoError, id="gated, somebody"),
        pytest.param("hf_" + "x" * 30, "open", HfHubHTTPError, id="an unknown token"),
    ],
)
def test_who_may_not_read_gets_the_clients_error(
    hub: ConnectedHub, monkeypatch: pytest.MonkeyPatch, token: str | None, kind: str, error: type[Exception]
) -> None:
    hub.add("ann/model", {"a.txt": b"1"}, private=kind == "private", gated=kind == "gated")
    assert Path(hf_hub_download("ann/model", "a.txt")).read_bytes() == b"1"
    hub.login(monkeypatch, token)
    with pytest.raises(error):
        hf_hub_download("ann/model", "a.txt", force_download=False, cache_dir=hub.home / "other")


def test_who_may_only_read_cannot_write(
    hub: ConnectedHub, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("ann/model")
    for token in (READER, STRANGER):
        hub.login(monkeypatch, token)
        with pytest.raises(HfHubHTTPError) as refused:
            commit(api, {"a.txt": b"1"})
        assert refused.value.response.status_code == 403
    assert api.whoami()["name"] == "bob"
    assert hub.files("ann/model") == {}


def test_absent_things_have_their_own_errors(hub: ConnectedHub, api: HfApi) -> None:
    hub.add("ann/model", {"a.txt": b"1"})
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("ann/other", "a.txt")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("ann/model", "a.txt", revision="v9")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("ann/model", "b.txt")


def test_injected_statuses_are_retried_as_asked(hub: ConnectedHub, api: HfApi) -> None:
    api.create_repo("ann/model")
    hub.fail_next("POST .*preupload", 429, retry_after=7)
    hub.fail_next("PUT /objects", 503, times=2)
    commit(api, {"model.safetensors": LARGE})
    assert hub.waited == [8, 1, 2]  # the client adds one second to Retry-After
    assert [one.status for one in hub.asked("PUT ")] == [503, 503, 200]
    hub.fail_next("POST .*/commit/", 500)
    with pytest.raises(HfHubHTTPError):
        commit(api, {"a.txt": b"1"})


def test_a_cut_upload_is_sent_again(hub: ConnectedHub, api: HfApi) -> None:
    api.create_repo("ann/model")
    hub.fail_next("PUT /objects", cut=20_000)
    commit(api, {"model.safetensors": LARGE})
    assert [(len(one.body), one.status) for one in hub.asked("PUT ")] == [(20_000, 0), (len(LARGE), 200)]


def test_a_cut_download_goes_on_where_it_was_cut(hub: ConnectedHub) -> None:
    hub.add("ann/model", {"model.safetensors": LARGE})
    hub.fail_next("GET /objects", cut=20_000)
    file = hf_hub_download("ann/model", "model.safetensors")
    assert Path(file).read_bytes() == LARGE
    parts = [(one.headers.get("range"), one.status, one.sent) for one in hub.asked("GET /objects")]
    assert parts[0] == (None, 200, 20_000)
    assert parts[1] == ("bytes=16384-", 206, len(LARGE) - 16384)


def test_a_range_outside_the_file_is_416(hub: ConnectedHub) -> None:
    hub.add("ann/model", {"a.bin": LARGE})
    url = f"{hub.url}/ann/model/resolve/main/a.bin"
    answers = {
        asked: get_session().get(url, headers={"Range": asked}) for asked in ("bytes=9-11", "bytes=-2")
    }
    assert [answer.content for answer in answers.values()] == [LARGE[9:12], LARGE[-2:]]
    assert get_session().get(url, headers={"Range": "bytes=999999-"}).status_code == 416


def test_a_slow_server_is_asked_again_with_more_time(hub: ConnectedHub) -> None:
    hub.add("ann/model", {"a.txt": b"1"})
    hub.fail_next("HEAD ", delay=0.4)
    assert Path(hf_hub_download("ann/model", "a.txt", etag_timeout=0.1)).read_bytes() == b"1"
    assert len(hub.asked("HEAD .*/resolve/")) == 2


def test_a_stopped_server_is_no_connection(hub: ConnectedHub, api: HfApi) -> None:
    hub.stop()
    with pytest.raises(HTTP.ConnectError):
        api.whoami()


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        pytest.param("---\na: [\n---\n", "Invalid metadata", id="no YAML"),
        pytest.param("---\n- a\n---\n", "must be an object", id="a list"),
        pytest.param(
            "---\nmodel-index: [{name: a, results: [{task: {type: x}}]}]\n---\n",
            "dataset.type",
            id="no data",
        ),
    ],
)
def test_a_card_with_wrong_metadata_is_refused(
    hub: ConnectedHub, api: HfApi, card: str, problem: str
) -> None:
    api.create_repo("ann/model")
    with pytest.raises(ValueError, match=problem):
        commit(api, {"README.md": card.encode()})
    assert hub.commits("ann/model") == []


def test_a_dataset_is_loaded(hub: ConnectedHub) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), table)
    hub.add("ann/data", {"data/train-00000-of-00001.parquet": table.getvalue()}, kind="dataset")
    rows = load_dataset("ann/data", split="train")
    assert rows["text"][:] == ["a", "b"]


def test_another_process_uses_the_hub_by_its_environment(hub: ConnectedHub) -> None:
    code = "from huggingface_hub import HfApi; print(HfApi().whoami()['name'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub.env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "ann", done.stderr
