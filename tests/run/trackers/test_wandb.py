"""Weights & Biases: its own files are read back, and a server on this machine stands in for its own."""

import builtins
import gzip
import json
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from finetune.errors import UserError
from finetune.run.folder import RunFolder
from finetune.run.lock import MARKER
from finetune.run.results import Predictions
from finetune.run.trackers import several
from finetune.run.trackers import wandb as module
from finetune.run.trackers.options import TrackerConfig
from finetune.run.trackers.several import Trackers
from tests.run.trackers.readers import read_records, read_wandb

wandb = pytest.importorskip("wandb")

Command = Callable[..., tuple[int, str, str]]
SHORT = (
    "recipe=quickstart",
    "trainer.max_steps=2",
    "trainer.global_batch_size=4",
    "trainer.logging_steps=1",
)
SMALL_EVALUATION = ("evaluation.limit=6", "evaluation.batch_size=4")
KEY = "k" * 40


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which nobody has logged in."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        logging.getLogger("finetune"), "propagate", True
    )  # an earlier job's switched it off
    wandb.teardown()
    yield
    wandb.teardown()


def build(folder: Path = Path("runs/mine"), **options: Any) -> Trackers:
    """A tracker for a folder that is ready to be trained in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("seed: 3\npeft: {r: 16}\ndataset: {train: mine.jsonl}\n")
    (folder / "environment.json").write_text(
        json.dumps({"commit": "abc", "command": ["--token=hf_secret"]})
    )
    return Trackers(RunFolder(folder), Path("runs"), TrackerConfig(["wandb"], **options))


def test_a_run_can_be_told_apart_and_has_its_final_score(tmp_path: Path, command: Command) -> None:
    words = [*SHORT, *SMALL_EVALUATION, "tracker=wandb", "tracker.mode=offline"]
    code, out, err = command(*words)
    assert code == 0, err
    assert "wandb sync runs/quickstart/wandb/offline-run-" in out
    assert "wandb:" not in out + err
    folder = tmp_path / "runs/quickstart"
    config, scalars, tables = read_wandb(folder)
    for group in ("dataset", "task", "collator", "metric", "peft", "freeze", "trainer", "model"):
        assert isinstance(config[group], dict), group
    assert config["seed"] == 0
    assert config["environment"]["packages"]["torch"]
    final = json.loads((folder / "metrics.json").read_text())["final"]
    numbers = {name: value for name, value in final.items() if not isinstance(value, dict)}
    assert {name: scalars[f"final/{name}"][-1][1] for name in numbers} == pytest.approx(numbers)
    assert [step for step, _ in scalars["train/loss"] if step > 0] == [1, 2]
    ((rows, images),) = tables["final/predictions"]
    assert len(rows) == len(images) == 6
    assert not list(tmp_path.glob("wandb"))
    first = (folder / "wandb/id").read_text()

    code, _, err = command(*set(words) - {"trainer.max_steps=2"}, "resume=true", "trainer.max_steps=3")
    assert code == 0, err
    runs = sorted(folder.glob("wandb/offline-run-*"))
    assert {path.name.rpartition("-")[2] for path in runs} == {first}


NOTHING = Predictions([], lambda index: Image.new("RGB", (4, 3)), 0)


def test_members_of_a_sweep_are_runs_of_their_own(tmp_path: Path) -> None:
    names = set()
    for number in ("0", "1"):
        folder = Path("runs/sweep") / number
        tracker = build(folder, mode="offline")
        tracker.check()
        with tracker.running():
            tracker.log(1, {"loss": float(number)})
        (run,) = [record.run for record in read_records(folder) if record.run.run_id][:1]
        assert (run.display_name, run.run_group) == (f"sweep/{number}", "sweep")
        assert (1, float(number)) in read_wandb(folder).scalars["train/loss"]
        names.add(run.run_id)
    assert len(names) == 2


def test_nothing_secret_stands_in_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_with_a_token: None
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secretkey" * 5)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("sys.argv", ["finetune", "--token=hf_secret"])
    tracker = build(mode="offline")
    tracker.check()
    with tracker.running():
        time.sleep(0.5)  # it looks at machine and repository in the background
    for file in filter(Path.is_file, (tmp_path / "runs/mine/wandb").rglob("*")):
        assert b"secret" not in file.read_bytes(), file


@pytest.fixture
def git_with_a_token(tmp_path: Path) -> None:
    (tmp_path / ".git/objects").mkdir(parents=True)
    (tmp_path / ".git/refs").mkdir()
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git/config").write_text('[remote "origin"]\n\turl = https://secret@example.org/a.git\n')


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        pytest.param(
            ["tracker.mode=online"],
            {"WANDB_MODE": "offline"},
            "nobody is logged in.*wandb login",
            id="asked",
        ),
        pytest.param(
            ["tracker.mode=sideways"],
            {},
            "tracker.mode=sideways: expected online, offline or disabled",
            id="mode",
        ),
        pytest.param(
            [], {"WANDB_MODE": "up"}, "WANDB_MODE=up: expected online, offline or disabled", id="variable"
        ),
        pytest.param(
            ["tracker.mode=offline", "tracker.project=a/b"], {}, "tracker.project=a/b", id="project"
        ),
        pytest.param([], {"WANDB_API_KEY": "short"}, "40.*tracker.mode=offline", id="malformed key"),
    ],
)
def test_a_mistake_ends_before_a_run_is_made_or_deleted(
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    variables: dict[str, str],
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    old = tmp_path / "runs/quickstart"
    old.mkdir(parents=True)
    (old / MARKER).write_text("{}")
    (old / "config.yaml").write_text("kept: true")
    code, _, err = command(*SHORT, "tracker=wandb", "overwrite=true", *words)
    assert code == 2
    assert re.search(message, err)
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert (old / "config.yaml").read_text() == "kept: true"


def test_where_wandb_is_missing_only_its_users_hear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'")
        return real(name, *args, **kwargs)

    tracker = build(mode="offline")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'finetune-paligemma\[wandb\]'"):
        tracker.check()
    unused = Trackers(RunFolder(Path("runs/mine")), Path("runs"), TrackerConfig())
    unused.check()
    with unused.running():
        unused.report(1, {"exact_match": 1.0}, NOTHING)


def test_where_nobody_is_logged_in_the_curves_stay_in_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_one_step(build())
    assert "wandb login" in only_warning(caplog)
    assert (1, 2.5) in read_wandb(tmp_path / "runs/mine").scalars["train/loss"]


class Server(BaseHTTPRequestHandler):
    """As much of wandb's server as a run needs; `behaviour` says how it answers."""

    behaviour = "accept"
    requests: ClassVar[list[tuple[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.behaviour == "hang" or (self.behaviour == "hang later" and "viewer" not in str(body)):
            time.sleep(30)
        refused = self.behaviour == "refuse"
        answer = {"errors": [{"message": "not logged in"}]} if refused else self.answer(body)
        text = json.dumps(answer).encode()
        self.send_response(401 if refused else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST  # noqa: N815

    def answer(self, body: bytes) -> dict[str, Any]:
        if self.path != "/graphql":
            self.requests.append((self.path, body))
            return {}
        query = json.loads(body)
        variables = query.get("variables") or {}
        self.requests.append((query["operationName"], variables))
        here = f"http://{self.headers['Host']}/upload/"
        me = {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
        project = {"id": "p", "name": "paligemma", "entity": {"id": "e", "name": "me"}}
        files = [{"name": name, "uploadUrl": here + name} for name in variables.get("files", [])]
        bucket = {"id": "b", "name": variables.get("name"), "config": "{}", "project": project}
        data: dict[str, dict[str, Any]] = {
            "Viewer": {"viewer": me},
            "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
            "CreateRunFiles": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}},
        }
        return {"data": data.get(query["operationName"], {})}

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    handler = type("Handler", (Server,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda request, address: None  # type: ignore[assignment, method-assign]
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield handler
    server.shutdown()
    server.server_close()


def run_one_step(tracker: Trackers) -> None:
    tracker.check()
    with tracker.running():
        tracker.log(1, {"loss": 2.5})
        tracker.report(1, {"exact_match": 75.0}, NOTHING)


def test_a_server_that_answers_gets_curves_and_scores(server: type[Server], tmp_path: Path) -> None:
    run_one_step(build())
    names = [name for name, _ in server.requests]
    (bucket, *_) = [sent for name, sent in server.requests if name == "UpsertBucket"]
    assert bucket["displayName"] == "mine"
    assert json.loads(bucket["config"])["peft"] == {"value": {"r": 16}}
    assert any(name.endswith("file_stream") for name in names)
    sent = b"".join(body for name, body in server.requests if isinstance(body, bytes))
    assert b"final/exact_match" in sent
    assert b"train/loss" in sent
    assert b"secret" not in sent


def test_a_key_that_the_server_refuses_is_a_mistake(server: type[Server]) -> None:
    server.behaviour = "refuse"
    with pytest.raises(UserError, match="tracker=wandb: .*not logged in.*tracker.mode=offline"):
        build().check()


@pytest.mark.parametrize("behaviour", ["hang", "hang later", "nobody"])
def test_without_a_network_the_curves_stay_in_the_folder(
    server: type[Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    behaviour: str,
) -> None:
    server.behaviour = behaviour
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    monkeypatch.setattr(module, "_INIT_SECONDS", 1.0)
    if behaviour == "nobody":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    with caplog.at_level("INFO", logger="finetune"):
        run_one_step(build())
    assert time.monotonic() - started < 15
    ours = [record for record in caplog.records if record.name in {module.__name__, several.__name__}]
    (offline,) = (tmp_path / "runs/mine/wandb").glob("offline-run-*")
    assert f"wandb sync runs/mine/wandb/{offline.name}" in ours[-1].message
    only_warning(caplog)


def test_a_server_that_is_lost_holds_up_the_end_for_a_bounded_time(
    server: type[Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_FINISH_SECONDS", 1.0)
    tracker = build()
    tracker.check()
    started = time.monotonic()
    with tracker.running():
        server.behaviour = "hang"
        tracker.log(1, {"loss": 2.5})
    assert time.monotonic() - started < 10
    assert "wandb sync runs/mine/wandb/run-" in only_warning(caplog)


def test_a_tracker_that_is_killed_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = build(mode="offline")
    tracker.check()
    with tracker.running():
        tracker.log(1, {"loss": 2.5})
        found = subprocess.run(
            ["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, check=True
        )
        os.kill(int(found.stdout), signal.SIGKILL)
        os.waitpid(int(found.stdout), 0)
        for step in (2, 3):
            tracker.log(step, {"loss": 2.5})
        tracker.report(1, {"exact_match": 75.0}, NOTHING)
    assert "wandb sync runs/mine/wandb/offline-run-" in only_warning(caplog)


def only_warning(caplog: pytest.LogCaptureFixture) -> str:
    ours = [record for record in caplog.records if record.name in {module.__name__, several.__name__}]
    (warning,) = [record.message for record in ours if record.levelname == "WARNING"]
    return warning


def test_only_the_main_process_tracks(tmp_path: Path) -> None:
    # `check` is called in the main process alone.
    tracker = build(mode="offline")
    with tracker.running():
        tracker.log(1, {"loss": 2.5})
        tracker.report(1, {"exact_match": 1.0}, NOTHING)
    assert not (tmp_path / "runs/mine/wandb").exists()
