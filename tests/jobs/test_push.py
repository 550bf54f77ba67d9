"""Publishing a run: what is sent, to a Hub that answers as it should, and to one that does not."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import hf_hub_download

import finetune
from finetune.cli import main
from finetune.errors import UserError
from finetune.publish import upload
from tests.hub.server import READER, STRANGER, WRITER

if TYPE_CHECKING:
    from tests.hub.client import ConnectedHub

Command = Callable[..., tuple[int, str, str]]

SMALL = ["trainer.dataloader_num_workers=0", "trainer.max_steps=2", "evaluation.limit=24"]
PUSH = ("push", "run=runs/quickstart", "repo=ann/digits")
WEIGHTS = {"adapter_model.safetensors", "base/model.safetensors", "base/tokenizer.json", "tokenizer.json"}
SENT = {
    *WEIGHTS, "README.md", "adapter_config.json", "processor_config.json", "tokenizer_config.json",
    "config.yaml", "metrics.json", "environment.json", "report.html",
    "base/config.json", "base/generation_config.json", "base/processor_config.json",
    "base/tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["recipe=quickstart", *SMALL]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(upload, "_sleep", lambda seconds: None)
    return tmp_path / "work/runs/quickstart"


def test_a_push_is_one_commit_of_the_listed_files(run: Path, hub: "ConnectedHub", command: Command) -> None:
    code, out, err = command(*PUSH)
    assert code == 0, err
    assert set(hub.files("ann/digits")) == SENT
    assert hub.commits("ann/digits") == ["Push quickstart"]
    assert set(hub.uploaded()) == SENT
    repository = hub.repositories["model", "ann/digits"]
    assert repository.private
    assert f"pushed: {hub.url}/ann/digits/commit/{repository.branches['main']} (private; 16 files, " in out
    assert re.search(r"kB  config\.yaml\n", out)
    weights = run / "adapter/adapter_model.safetensors"
    loaded = hf_hub_download("ann/digits", weights.name)
    assert Path(loaded).read_bytes() == weights.read_bytes()


def test_a_second_push_of_the_same_makes_no_commit_and_says_so(
    run: Path, hub: "ConnectedHub", command: Command
) -> None:
    assert command(*PUSH)[0] == 0
    before = len(hub.log)
    code, out, _ = command(*PUSH)
    assert code == 0
    assert "nothing to push: " in out
    assert hub.commits("ann/digits") == ["Push quickstart"]
    later = [f"{one.method} {one.path}" for one in hub.log[before:]]
    assert not [line for line in later if "/commit/" in line or line.startswith("PUT")]


def test_the_program_gets_what_was_pushed(run: Path, hub: "ConnectedHub") -> None:
    result = finetune.push(run=run, repo="ann/digits", include=["predictions"], revision="v/1")
    files = hub.files("ann/digits", "v/1")
    assert set(files) == SENT | {"predictions/validation.jsonl", "predictions/validation.blank.jsonl"}
    assert result.files == {name: len(content) for name, content in files.items()}
    assert result.commit == hub.repositories["model", "ann/digits"].branches["v/1"]
    assert result.url == f"{hub.url}/ann/digits/commit/{result.commit}"
    assert hub.files("ann/digits") == {}


def test_a_dry_run_writes_the_folder_and_asks_nobody(
    run: Path, hub: "ConnectedHub", monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    hub.login(monkeypatch, None)
    code, out, err = command("push", "run=runs/quickstart", "dry_run=true")
    assert code == 0, err
    assert hub.log == []
    folder = Path("published/quickstart")
    written = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert written == SENT | {".finetune-push"}
    assert "would be pushed, and is in published/quickstart: 16 files" in out
    code, _, err = command("push", "run=runs/quickstart", "dry_run=true")
    assert code == 2
    assert "overwrite=true" in err
    assert (
        command("push", "run=runs/quickstart", "dry_run=true", "overwrite=true", "repo=ann/digits")[0] == 0
    )
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert command(*PUSH)[0] == 0
    assert hub.files("ann/digits") == {name: (folder / name).read_bytes() for name in SENT}


def test_images_of_the_data_go_along_only_if_asked_for(
    run: Path, hub: "ConnectedHub", command: Command
) -> None:
    assert b"data:image" in (run / "report.html").read_bytes()
    assert command(*PUSH)[0] == 0
    assert b"data:image" not in hub.received()
    page = hub.files("ann/digits")["report.html"]
    assert b"<svg" in page
    assert b"Worst predictions" in page
    assert command(*PUSH, "include=[images]")[0] == 0
    assert b"data:image" in hub.files("ann/digits")["report.html"]


def test_paths_of_this_machine_are_not_sent(
    run: Path, hub: "ConnectedHub", monkeypatch: pytest.MonkeyPatch, command: Command, tmp_path: Path
) -> None:
    home = tmp_path / "home of ann"
    monkeypatch.setenv("HOME", str(home))
    for name in ("config.yaml", "report.html"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace("runs_dir: runs", f"runs_dir: {home}/my runs/all"))
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/mnt/disk of ann/models/pali"
    (run / "adapter/adapter_config.json").write_text(json.dumps(config))
    (run / "adapter/README.md").write_text(
        f"---\nlicense: gemma\n---\nSee {home}/notes.txt, {Path.cwd()} and https://a.b/c/d.\n"
    )
    code, _, err = command(*PUSH)
    assert code == 0, err
    received = hub.received()
    files = hub.files("ann/digits")
    for path in (home, Path.cwd(), "/mnt/disk", "disk of ann", run):
        assert str(path).encode() not in received, path
        assert not [name for name, content in files.items() if str(path).encode() in content], path
    assert b"runs_dir: all" in files["config.yaml"]
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "pali"
    assert files["README.md"].endswith(b"\nSee notes.txt, work and https://a.b/c/d.\n")


SECRET = "pa55word-of-the-database"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        pytest.param("config.yaml", f"\n# {SECRET}\n", id="a value of the environment"),
        pytest.param("metrics.json", "", id="in JSON"),
        pytest.param("adapter/README.md", "token: hf_" + "aB3" * 10, id="what has the shape of a token"),
        pytest.param("report.html", f"<p>{WRITER}</p>", id="the token in use"),
    ],
)
def test_a_secret_is_never_sent(
    run: Path, hub: "ConnectedHub", monkeypatch: pytest.MonkeyPatch, command: Command, file: str, text: str
) -> None:
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    if file == "metrics.json":
        metrics = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps({**metrics, "note": SECRET}))
    else:
        (run / file).write_text((run / file).read_text() + text)
    code, out, err = command(*PUSH)
    assert code == 2
    assert re.search(
        r"(config.yaml|metrics.json|README.md|report.html).*, line \d+, has what looks like", err
    )
    assert SECRET not in out + err
    assert hub.repositories == {}
    assert not hub.asked("POST ")


def test_only_listed_files_are_sent(run: Path, hub: "ConnectedHub", command: Command) -> None:
    for name in (
        "training_args.bin",
        "optimizer.pt",
        "notes.txt",
        ".env",
        "photo.png",
        "scheduler.bin",
    ):
        (run / "adapter" / name).write_bytes(b"mine")
        (run / name).write_bytes(b"mine")
    (run / "predictions/mine.jsonl").write_text("{}")
    code, out, err = command(*PUSH, "include=[predictions]")
    assert code == 0, err
    assert set(hub.files("ann/digits")) - SENT == {
        "predictions/validation.jsonl",
        "predictions/validation.blank.jsonl",
    }
    assert b"mine" not in hub.received()
    assert "not sent: .env, notes.txt, optimizer.pt, photo.png, scheduler.bin" in out + err


def test_files_of_an_earlier_push_do_not_stay(run: Path, hub: "ConnectedHub", command: Command) -> None:
    assert command(*PUSH, "include=[predictions]")[0] == 0
    hub.add("ann/digits", {"LICENSE": b"theirs", "predictions/own/x.jsonl": b"theirs"})
    code, out, _ = command(*PUSH)
    assert code == 0
    assert set(hub.files("ann/digits")) == SENT | {"LICENSE", "predictions/own/x.jsonl"}
    assert "removed  predictions/validation.jsonl" in out


def refused(command: Command, *words: str) -> str:
    code, out, err = command(*words)
    assert code == 2, out + err
    assert "Traceback" not in err
    assert out == ""
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["push", "repo=a/b"], "Which run? run=FOLDER"),
        (["push", "run=runs/none", "repo=a/b"], "runs/none holds no run"),
        (["push", "run=runs/quickstart"], "Where to? repo=USER/NAME"),
        (["push", "run=runs/quickstart", "repo=digits"], "repo='digits': expected USER/NAME"),
        ([*PUSH, "out=x"], "add dry_run=true"),
        ([*PUSH, "include=[pictures]"], "expected predictions or images"),
        ([*PUSH, "revision=a b"], "expected the name of a branch"),
        ([*PUSH, "peft.r=4"], "peft.r= has no effect on `push`"),
        (["push", "run=runs/quickstart", "dry_run=true", "out=runs/quickstart"], "is not empty"),
    ],
)
def test_words_that_make_no_sense_are_refused(
    run: Path, hub: "ConnectedHub", command: Command, words: list[str], expected: str
) -> None:
    assert expected in refused(command, *words)
    assert hub.log == []


def test_a_run_without_a_result_is_refused(run: Path, hub: "ConnectedHub", command: Command) -> None:
    shutil.rmtree(run / "adapter")
    assert "is not finished: it has no result to publish" in refused(command, *PUSH)
    assert hub.log == []


def test_weights_that_the_run_did_not_write_are_refused(
    run: Path, hub: "ConnectedHub", command: Command
) -> None:
    with (run / "adapter/adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    assert "is not what the run wrote" in refused(command, *PUSH)
    assert hub.log == []


def test_a_public_repository_is_made_and_written_if_asked_for(
    run: Path, hub: "ConnectedHub", command: Command
) -> None:
    code, out, _ = command(*PUSH, "private=false")
    assert code == 0
    assert "(public; " in out
    assert not hub.repositories["model", "ann/digits"].private
    assert command(*PUSH, "private=false", "include=[predictions]")[0] == 0


def test_no_network_is_named(run: Path, hub: "ConnectedHub", command: Command) -> None:
    hub.stop()
    message = refused(command, *PUSH)
    assert f"The repository `ann/digits` cannot be reached: no connection to {hub.url}" in message
    assert "Check the network. Nothing was published." in message


SHORT = [
    "recipe=quickstart",
    *SMALL[:1],
    "trainer.max_steps=1",
    "evaluation.limit=4",
    "evaluation.loss=false",
]
AT_END = ["push.at_end=true", "push.repo=ann/digits"]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(upload, "_sleep", lambda seconds: None)
    return tmp_path


def test_a_training_pushes_at_its_end(empty: Path, hub: "ConnectedHub", command: Command) -> None:
    code, out, err = command(*SHORT, *AT_END, "push.revision=first")
    assert code == 0, err
    assert set(hub.files("ann/digits", "first")) == SENT
    assert "pushed: " in out
    assert "push" not in (empty / "runs/quickstart/config.yaml").read_text()
    written = [file.read_bytes() for file in (empty / "runs").rglob("*") if file.is_file()]
    assert not [content for content in [*written, hub.received()] if WRITER.encode() in content]
    assert WRITER not in out + err


def test_a_training_whose_push_fails_is_complete_and_says_how_to_push(
    empty: Path, hub: "ConnectedHub", capsys: pytest.CaptureFixture[str]
) -> None:
    hub.stop()
    with pytest.raises(SystemExit) as end:
        main([*SHORT, *AT_END, "push.private=false", "push.include=[predictions]"])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert "warning: push.at_end=true: The repository `ann/digits` cannot be reached" in out
    assert "error: The repository `ann/digits` cannot be reached" in err
    again = "push run=runs/quickstart repo=ann/digits private=false 'include=[predictions]'"
    assert f"The run is complete in runs/quickstart. To push it again:\n  python -m finetune {again}" in err
    assert (empty / "runs/quickstart/report.html").is_file()


@pytest.mark.parametrize(
    ("words", "token", "expected"),
    [
        (AT_END, READER, "may only read"),
        (AT_END, None, "Nobody is logged in"),
        (AT_END[:1], WRITER, "push.at_end=true: which repository? push.repo=USER/NAME is missing"),
        (AT_END[1:], WRITER, "no effect without push.at_end=true"),
        ([AT_END[0], "push.repo=digits"], WRITER, "push.repo='digits': expected USER/NAME"),
    ],
)
def test_a_push_that_cannot_work_is_refused_before_the_training(
    empty: Path,
    hub: "ConnectedHub",
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    words: list[str],
    token: str | None,
    expected: str,
) -> None:
    hub.login(monkeypatch, token)
    assert expected in refused(command, *SHORT, *words)
    assert not (empty / "runs").exists()


@pytest.mark.slow
def test_of_a_sweep_the_best_run_is_pushed_once(empty: Path, hub: "ConnectedHub", command: Command) -> None:
    code, out, err = command("-m", *SHORT, *AT_END, "trainer.learning_rate=1e-9,2e-3")
    assert code == 0, err
    best = re.search(r"run=runs/quickstart_sweep/(\d)\n", out)
    assert best is not None
    assert hub.commits("ann/digits") == [f"Push {best[1]}"]
    weights = empty / f"runs/quickstart_sweep/{best[1]}/adapter/adapter_model.safetensors"
    assert hub.files("ann/digits")["adapter_model.safetensors"] == weights.read_bytes()


def test_what_was_pushed_is_loaded_from_the_hub_and_answers_alike(
    run: Path, hub: "ConnectedHub", monkeypatch: pytest.MonkeyPatch
) -> None:
    image, prefix = run / "thumbnails/validation/000132.png", "answer en which digit is this?"
    image = image if image.is_file() else next((run / "thumbnails/validation").iterdir())
    own = finetune.predict(run=run, image=image, prefix=prefix)
    finetune.push(run=run, repo="ann/digits", revision="v1")
    hub.login(monkeypatch, READER)

    def ask(adapter: str) -> list[str]:
        given = {"model": "tiny", "peft": "qlora", "adapter": adapter, "prefix": prefix}
        return [row["prediction"] for row in finetune.predict(image=image, **given).rows]

    with pytest.raises(UserError, match="`ann/digits` is not a complete adapter"):
        ask("ann/digits")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    finetune.push(run=run, repo="ann/two")
    hub.login(monkeypatch, READER)
    assert ask("ann/two") == [row["prediction"] for row in own.rows]
    hub.login(monkeypatch, STRANGER)
    with pytest.raises(UserError, match="There is no adapter `ann/three`|`ann/two`"):
        ask("ann/three")


@pytest.mark.slow
def test_the_code_of_the_pushed_card_answers_elsewhere_without_this_package(
    run: Path, hub: "ConnectedHub", tmp_path: Path
) -> None:
    image = next((run / "thumbnails/validation").iterdir())
    own = finetune.predict(run=run, image=image, prefix="answer en which digit is this?")
    finetune.push(run=run, repo="ann/digits")
    [code] = re.findall(r"```python\n(.*?)```", hub.files("ann/digits")["README.md"].decode(), re.DOTALL)
    code = (
        code.replace('"image.jpg"', repr(str(image))) + "\nimport sys; assert 'finetune' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **hub.env, "HF_TOKEN": READER},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == next(iter(own.rows))["prediction"]


@pytest.mark.slow
def test_a_merged_model_is_loaded_by_its_name_and_reproduced(
    run: Path, hub: "ConnectedHub", tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image, prefix = next((run / "thumbnails/validation").iterdir()), "answer en which digit is this?"
    own = finetune.predict(run=run, image=image, prefix=prefix)
    result = finetune.push(run=run, repo="ann/merged", weights="merged")
    assert "merge.json" not in result.files
    assert "score it" not in capfd.readouterr().err
    model = finetune.load("ann/merged")
    assert model.ask(image, prefix)["prediction"] == next(iter(own.rows))["prediction"]
    again = finetune.reproduce(card="ann/merged", runs_dir=tmp_path / "again")
    # Weights are rounded again, so probabilities move a little; answers and what follows from them do not.
    assert again.exit_code == 0, again.comparison.differences
    assert "weights" in again.comparison.equal


def test_a_private_repository_does_not_become_public_by_a_push(
    run: Path, hub: "ConnectedHub", command: Command
) -> None:
    assert command("push", f"run={run}", "repo=ann/digits")[0] == 0
    code, _, err = command("push", f"run={run}", "repo=ann/digits", "private=false")
    assert code == 2
    assert "ann/digits is private on the Hub, and a push does not change that" in err


def test_the_card_of_a_dry_run_is_that_of_a_repository(
    run: Path, hub: "ConnectedHub", command: Command, tmp_path: Path
) -> None:
    assert command("push", f"run={run}", "dry_run=true", f"out={tmp_path / 'dry'}")[0] == 0
    card = (tmp_path / "dry/README.md").read_text()
    assert 'subfolder="base"' in card
    assert "USER/NAME" in card
