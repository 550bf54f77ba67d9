import json
import re
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
from PIL import Image

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("words", "figure"),
    [
        ("freeze=none", "learning: 11,298,816 of 2,934,765,296 parameters"),
        ("freeze=vision", "learning: 9,805,824 of 2,933,272,304 parameters"),
        ("peft.target_modules=[q_proj,v_proj]", "learning: 921,600 of 2,924,388,080 parameters"),
    ],
)
def test_the_published_figures_are_reached_from_the_command_line(
    command: Command, words: str, figure: str
) -> None:
    code, out, err = command("plan", "recipe=vqav2_qlora", *words.split())
    assert code == 2
    assert figure in out
    assert "bfloat16+nf4" in out
    assert "The dataset `" in err or "cannot be reached" in err, err


def test_the_steps_are_counted_from_the_data(command: Command) -> None:
    _, out, _ = command("plan", "recipe=quickstart")
    assert "1,500 train and 297 validation examples, batch 32: 94 steps, 2.01 epochs" in out
    _, out, _ = command("plan", "recipe=quickstart", "trainer.limit=64")
    assert "64 train and 297 validation examples, batch 32: 4 steps, 2.00 epochs" in out


def test_a_plan_writes_nothing(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command("plan", "recipe=quickstart")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["paligemma2_3b", "paligemma2_10b", "paligemma2_28b"])
def test_paligemma_2_is_known_in_all_sizes(command: Command, model: str) -> None:
    code, out, _ = command("plan", "recipe=vqav2_lora", f"model={model}")
    assert code == 2  # the data cannot be reached
    assert "language_model" in out


def write_jsonl(folder: Path, **last: object) -> list[str]:
    row = {"image": "a.png", "prefix": "what color?", "suffix": "red"}
    Image.new("RGB", (30, 20)).save(folder / "a.png")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, [row, {**row, **last}])))
    words = ["recipe=jsonl_qlora", "dataset.validation_fraction=null"]
    return [*words, f"dataset.train={folder}/rows.jsonl", f"dataset.validation={folder}/rows.jsonl"]


def test_a_plan_shows_model_device_data_and_the_first_prompt(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("plan", *write_jsonl(tmp_path), "model=tiny")
    assert code == 0
    assert "model tiny on cpu" in out
    assert f"2 train rows ({tmp_path}/rows.jsonl)" in out
    assert "first example: 'what color?' -> 'red'" in out


@pytest.mark.parametrize(
    ("last", "words", "message"),
    [
        pytest.param({"suffix": "red " * 200}, ["model=tiny"], "train examples are too long", id="long"),
        pytest.param({"suffix": " "}, [], "line 2: `suffix` has an empty text", id="blank"),
        pytest.param({"suffix": "a <image>"}, [], "rows.jsonl line 2): Row `2`: its text", id="reserved"),
        pytest.param({"image": "b.png"}, [], "line 2: no image `b.png`", id="no image"),
        pytest.param({"prefix": None}, [], "line 2: `prefix` must be a string", id="type"),
        pytest.param({}, ["task.prompt={nothing}"], "The task reads column `nothing`", id="column"),
        pytest.param({}, ["metric=pair_accuracy"], "this metric needs a `group`", id="metric"),
    ],
)
def test_what_would_stop_a_training_stops_its_plan(
    command: Command, tmp_path: Path, last: dict[str, object], words: list[str], message: str
) -> None:
    code, out, err = command("plan", *write_jsonl(tmp_path, **last), *words)
    assert code == 2
    assert message in err
    assert "learning: " in out


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_plan_of_a_file_that_is_missing_is_a_mistake(
    command: Command, tmp_path: Path, split: str
) -> None:
    words = [word for word in write_jsonl(tmp_path) if not word.startswith(f"dataset.{split}=")]
    code, out, err = command("plan", *words, "model=tiny", f"dataset.{split}=nowhere.jsonl")
    assert code == 2
    assert f"No file nowhere.jsonl (dataset.{split})" in err
    assert "steps" not in out


def test_a_plan_of_a_class_that_only_the_validation_split_has_is_a_mistake(
    command: Command, tmp_path: Path
) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    words = []
    for split, label in (("train", "cat"), ("validation", "cow")):
        content = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
            "categories": [{"id": 1, "name": label}],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
        words.append(f"dataset.{split}={tmp_path}/{split}.json")
    code, _, err = command("plan", "recipe=coco_json_qlora", *words, "model=tiny")
    assert code == 2
    assert f"validation ({tmp_path}/validation.json: image 1): Row `1`: class `cow`" in err
    assert "Name all classes (task.labels=[cat,cow])" in err


def test_a_plan_warns_as_a_training_would(command: Command, tmp_path: Path) -> None:
    words = write_jsonl(tmp_path, suffix="red and green and blue")
    code, out, _ = command("plan", *words, "model=tiny", "evaluation.max_new_tokens=3")
    assert code == 0
    assert "evaluation.max_new_tokens=3 cuts the answers of 1 of 2 validation examples" in out
    assert "2 of 2 validation examples are also in train" in out


def test_lengths_are_not_checked_without_the_checkpoints_own_tokenizer(
    command: Command, tmp_path: Path
) -> None:
    code, out, _ = command("plan", *write_jsonl(tmp_path, suffix="red " * 200))
    assert code == 0
    assert "text lengths are not checked: the tokenizer of google/paligemma" in out


def test_a_plan_of_masks_trains_no_codec(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    code, out, _ = command("plan", "recipe=quickstart_segment", "dataset.train=64", "dataset.validation=4")
    assert code == 0
    assert "<seg000>" in out
    assert not (tmp_path / "cache").exists()


def test_memory_is_that_of_the_lengths_in_the_data(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("plan", *write_jsonl(tmp_path), "model=tiny")
    assert code == 0
    assert re.search(r"memory of a step on this [CG]PU, computed: .* at most 1?\d text tokens", out)
    assert "FLOP useful" in out
    assert "disk for the features of all images" in out


def test_a_memory_to_fit_and_a_rate_are_taken(command: Command, tmp_path: Path) -> None:
    words = [*write_jsonl(tmp_path), "model=tiny", "fit=8GB", "peak_tflops=2"]
    code, out, _ = command("plan", *words)
    assert code == 0
    assert "fits into a GPU of 8GB (7.5 GiB)" in out
    assert "all steps at 2 TFLOP/s (peak_tflops=)" in out


@pytest.mark.parametrize("fit", ["24", "24TB", "0GB", "-1GB", "lots"])
def test_a_memory_that_cannot_be_read_is_a_mistake(command: Command, fit: str) -> None:
    code, _, err = command("plan", "recipe=quickstart", f"fit={fit}")
    assert code == 2
    assert "expected the memory of a GPU, such as 24GB" in err
