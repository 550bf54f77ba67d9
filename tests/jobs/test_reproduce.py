"""A result is scored again: what is the same is called equal, and whatever was changed is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import finetune
from finetune.cli import main
from finetune.errors import UserError
from finetune.publish.reproduce import Verdict
from finetune.publish.results import describe_difference
from tests.conftest import noise_image

Command = Callable[..., tuple[int, str, str]]

FEW = (
    "trainer.max_steps=2", "trainer.global_batch_size=4", "trainer.dataloader_num_workers=0",
    "evaluation.limit=12", "evaluation.blank_images=never", "evaluation.pictures=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run over questions in a file, with a test split."""
    folder = tmp_path_factory.mktemp("reproduce")
    lines = []
    for number in range(24):
        noise_image(number).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "prefix": "what?", "suffix": str(number % 4)}))
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = ["recipe=jsonl_qlora", "model=tiny", "run_name=short", f"runs_dir={folder}/runs"]
    words += [f"dataset.{split}={folder}/data.jsonl" for split in ("train", "validation", "test")]
    assert main([*words, *FEW]) == 0
    return folder


@pytest.fixture
def inside(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own copy of the run, in the current folder; the data stay where they were."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "runs/short", tmp_path / "short")
    return tmp_path


def reproduce(*words: str) -> tuple[Verdict, str]:
    """Return the verdict, and each difference as a line."""
    result = finetune.reproduce("card=short", "runs_dir=again", *words)
    lines = [f"{one.verdict}: {describe_difference(one)}" for one in result.comparison.differences]
    assert result.exit_code == (1 if result.verdict == Verdict.different else 0)
    return result.verdict, "\n".join(lines)


def edit(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def test_an_untouched_run_is_equal_in_everything_that_is_compared(inside: Path, command: Command) -> None:
    code, out, err = command("reproduce", "card=short", "runs_dir=again")
    assert code == 0, err
    assert "short, scored again: equal\n" in out
    for text in (
        "data of validation",
        "data of test",
        "every answer to validation",
        "every answer to test",
    ):
        assert text in out
    assert "not compared: data of train: only train=true reads it" in out
    written = json.loads((inside / "again/short_reproduce/reproduce.json").read_text(encoding="utf-8"))
    assert (written["verdict"], written["differences"]) == ("equal", [])


def change_score(run: Path) -> None:
    edit(run / "metrics.json", lambda metrics: metrics["final"].update(exact_match=7.25))


def change_loss(run: Path) -> None:
    edit(run / "metrics.json", lambda metrics: metrics["test"].update(loss=metrics["test"]["loss"] * 1.01))


def change_package(run: Path) -> None:
    edit(run / "environment.json", lambda facts: facts["packages"].update(torch="1.13"))


def change_setting(run: Path) -> None:
    text = (run / "config.yaml").read_text(encoding="utf-8")
    assert "suffix_choice: cycle\n" in text
    text = text.replace("suffix_choice: cycle\n", "suffix_choice: random\n")
    (run / "config.yaml").write_text(text, encoding="utf-8")


def change_metric(run: Path) -> None:
    text = (run / "config.yaml").read_text(encoding="utf-8")
    assert "  strip: false\n" in text
    (run / "config.yaml").write_text(text.replace("  strip: false\n", "  strip: true\n"), encoding="utf-8")


def change_weight(run: Path) -> None:
    file = run / "adapter/adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_A" in name)
    weights[name] = weights[name] + 1e6  # lora_B is 1e-4 after two steps
    save_file(weights, file)


def change_interval(run: Path) -> None:
    edit(run / "metrics.json", lambda metrics: metrics["intervals"].update(exact_match=[99.0, 99.5, 1000]))


def change_prediction(run: Path) -> None:
    file = run / "predictions/validation.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "prediction": "something else"})
    file.write_text("\n".join(lines), encoding="utf-8")


CHANGES = {
    change_score: "different: validation exact_match: 7.25 in the card, 0 here (every answer is the same)",
    change_interval: "different: validation intervals.exact_match.low: 99 in the card",
    change_loss: "different: test loss: ",
    change_package: "different: package torch: 1.13 in the card",
    change_setting: "different: setting collator.suffix_choice: cycle in the card, random here",
    change_metric: "different: setting metric.strip: false in the card, true here",
}


def test_everything_that_was_changed_in_the_run_is_named(inside: Path) -> None:
    for change in CHANGES:
        change(inside / "short")
    before = {file: file.read_bytes() for file in (inside / "short").rglob("*.*") if file.is_file()}
    verdict, lines = reproduce()
    assert verdict == Verdict.different
    for named in CHANGES.values():
        assert named in lines
    assert len(lines.splitlines()) == len(CHANGES) + 1  # both ends of the interval
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize("change", [change_score, change_package], ids=["score", "package"])
def test_one_change_is_an_exit_code(inside: Path, change: Callable[[Path], None]) -> None:
    change(inside / "short")
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", "card=short", "runs_dir=again"])
    assert stopped.value.code == 1


def test_a_changed_weight_is_named_and_what_it_costs(inside: Path) -> None:
    change_weight(inside / "short")
    verdict, lines = reproduce()
    assert verdict == Verdict.different
    assert "different: weights adapter_model.safetensors: " in lines
    assert "validation answers: 12 in all in the card, 12 of them differ here" in lines


def test_a_changed_answer_is_named_and_alone_no_other_result(inside: Path) -> None:
    change_prediction(inside / "short")
    verdict, lines = reproduce()
    assert (verdict, lines.count("\n")) == (Verdict.within, 0)
    assert lines.startswith("within the interval: validation answer `4`: something else in the card, ")


def copy_data(trained: Path, folder: Path) -> list[str]:
    """Copy the data, and return the words that name the copy."""
    folder.mkdir()
    for file in [*trained.glob("*.png"), trained / "data.jsonl"]:
        shutil.copy(file, folder)
    return [f"dataset.{split}={folder}/data.jsonl" for split in ("train", "validation", "test")]


def test_data_in_another_place_are_the_same_and_a_pixel_or_a_character_changed_is_not(
    trained: Path, inside: Path
) -> None:
    words = copy_data(trained, inside / "moved")
    assert reproduce(*words) == (Verdict.equal, "")
    written = json.loads((inside / "again/short_reproduce/reproduce.json").read_text(encoding="utf-8"))
    places = {one["what"]: (one["before"], one["now"]) for one in written["places"]}
    assert places["dataset.validation"] == (f"{trained}/data.jsonl", f"{inside}/moved/data.jsonl")
    noise_image(77).save(inside / "moved/5.png")
    file = inside / "moved/test.jsonl"
    text = (inside / "moved/data.jsonl").read_text(encoding="utf-8")
    file.write_text(text.replace('"suffix": "0"', '"suffix": "9"', 1), encoding="utf-8")
    verdict, lines = reproduce(*words[:2], f"dataset.test={file}", "overwrite=true")
    assert verdict == Verdict.different
    for split in ("validation", "test"):
        assert f"different: data of {split}: sha256:" in lines


def test_a_repeated_training_is_equal_on_the_same_machine(inside: Path, command: Command) -> None:
    code, out, err = command("reproduce", "card=short", "runs_dir=again", "train=true", "run_name=twice")
    assert code == 0, err
    assert "trained and scored again: equal" in out
    assert "data of train" in out
    environment = json.loads((inside / "again/twice/environment.json").read_text(encoding="utf-8"))
    assert environment["command"][3:] == [
        "train", "runs_dir=again", "recipe=short/config.yaml", "run_name=twice",
    ]  # fmt: skip


def test_a_result_as_it_is_pushed_has_its_weights_at_the_top(inside: Path) -> None:
    pushed = inside / "pushed"
    shutil.copytree(inside / "short/adapter", pushed)
    for name in ("config.yaml", "metrics.json", "environment.json"):
        shutil.copy(inside / "short" / name, pushed)
    result = finetune.reproduce("card=pushed", "runs_dir=again")
    assert result.verdict == Verdict.equal
    assert {"weights", "8 packages"} <= set(result.comparison.equal)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param([], "Which result? card=FOLDER", id="none"),
        pytest.param(["card="], "card= is empty", id="empty"),
        pytest.param(["card=./nowhere"], "holds no run", id="missing"),
        pytest.param(["card=short", "evaluation.num_beams=3"], "no effect on `reproduce`", id="setting"),
        pytest.param(["card=short", "recipe=quickstart"], "recipe= with card=", id="recipe"),
        pytest.param(["card=short", "run=short"], "no effect on `reproduce`", id="run"),
        pytest.param(["card=unscored"], "unscored has no scores", id="unscored"),
        pytest.param(["card=short", "dataset.validation=gone.jsonl"], "gone.jsonl", id="data"),
        pytest.param(["card=short", "runs_dir=.", "run_name=short"], "already holds a run", id="itself"),
    ],
)
def test_mistakes_end_with_a_message_and_write_nothing(
    inside: Path, command: Command, words: list[str], message: str
) -> None:
    shutil.copytree(inside / "short", inside / "unscored")
    (inside / "unscored/metrics.json").unlink()
    before = sorted(inside.rglob("*"))
    code, _, err = command("reproduce", *words)
    assert code == 2
    assert message in err
    assert sorted(inside.rglob("*")) == before


def test_an_unreadable_prediction_row_is_named_with_its_line(inside: Path) -> None:
    file = inside / "short/predictions/validation.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + "{}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"validation\.jsonl line 13: expected a prediction row"):
        finetune.reproduce("card=short", runs_dir="again")
