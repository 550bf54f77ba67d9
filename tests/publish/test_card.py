"""A model card: read by the Hub's own classes, true to the run, silent about the machine and its user."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

from finetune.cli import main
from finetune.errors import UserError
from finetune.publish.card import is_edited, update_card, write_card
from finetune.publish.facts import read_facts
from finetune.run.folder import RunFolder
from tests.publish.conftest import TINY_RUN

Change = Callable[..., None]
HOSTILE = "</td><script>alert(1)</script>\x1b[2J\u202e| ``` `a` *b* [c](http://d)\n---\n# e {{ f }}"


def set_option(run: Path, key: str, value: Any) -> None:
    """Change an option in a run's `config.yaml`."""
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, key, value, merge=False, force_add=True)
    (run / "config.yaml").write_text("# @package _global_\n" + OmegaConf.to_yaml(config), encoding="utf-8")


def read_card(run: Path, **options: Any) -> tuple[Any, str]:
    """Return the metadata as the Hub's classes read it, and the whole text."""
    text = write_card(read_facts(run), **options)
    return ModelCard(text).data, text


def test_the_hub_reads_the_metadata(finished: Path) -> None:
    data, _ = read_card(finished, repo="ann/digits")
    assert (data.library_name, data.pipeline_tag) == ("peft", "image-text-to-text")
    assert (data.license, data.base_model, data.datasets) == ("apache-2.0", None, None)
    assert data.tags == ["paligemma", "qlora"]
    assert data.model_name == "digits"
    metrics = json.loads((finished / "metrics.json").read_text())
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_name, result.dataset_split) == (
        "digits",
        "digits",
        "validation",
    )
    assert (result.task_type, result.metric_type) == ("visual-question-answering", "exact_match")
    assert result.metric_value == pytest.approx(metrics["final"]["exact_match"], abs=1e-4)
    assert result.metric_args == {
        "n": 100,
        "unit": "%",
        "interval_95": [pytest.approx(end, abs=1e-4) for end in metrics["intervals"]["exact_match"][:2]],
    }
    # What the Hub shows of it is its name and its value.
    assert re.fullmatch(
        r"exact_match \(%, 95 % interval [\d.]+ to [\d.]+, n = 100\)", result.metric_name or ""
    )


def test_the_card_says_what_the_run_knows(finished: Path) -> None:
    _, text = read_card(finished)
    metrics = json.loads((finished / "metrics.json").read_text())
    blank = metrics["baseline"]["scores"]["exact_match"]
    for part in (
        "A QLoRA adapter of the tiny PaliGemma",
        "answer en which digit is this?",
        "r 16, alpha 32, on down_proj, gate_proj",
        "| frozen | vision_tower, multi_modal_projector |",
        "| steps | 6 with a batch of 32 |",
        "| recipe | quickstart |",
        f"| {blank:.4g} |",
        "python -m finetune train recipe=quickstart trainer.max_steps=6",
        "vLLM makes only the image span bidirectional",
        "Apache-2.0",
    ):
        assert part in text
    assert "Gemma Terms" not in text
    assert str(finished.parent) not in text
    assert not re.search(r"(?<![\w:/.<\"])/(root|home|tmp|work|usr)\b", text)


def test_a_tuned_gemma_has_its_notice_and_names_its_base(run: Path, change: Change) -> None:
    base = {"path": "google/paligemma-3b-pt-224", "hub_id": "google/paligemma-3b-pt-224", "commit": "0af1"}
    change(run / "environment.json", base=base)
    data, text = read_card(run, repo="ann/digits")
    assert (data.license, data.base_model) == ("gemma", "google/paligemma-3b-pt-224")
    assert data.to_dict()["base_model_relation"] == "adapter"
    assert "Gemma is provided under and subject to the Gemma Terms of Use found at" in text
    assert "revision 0af1" in text
    assert 'base = "google/paligemma-3b-pt-224"' in text
    merged, text = read_card(run, repo="ann/digits", merged="bfloat16")
    assert (merged.library_name, merged.to_dict()["base_model_relation"]) == (
        "transformers",
        "finetune",
    )
    assert "PeftModel" not in text
    assert "A QLoRA adapter merged, in bfloat16, into the weights of [google/paligemma-3b-pt-224](" in text
    assert 'model_path = "ann/digits"' in text


def test_a_base_in_a_folder_is_named_without_the_folder(run: Path, change: Change) -> None:
    change(run / "environment.json", base={"path": "/home/ann/models/paligemma-3b"})
    data, text = read_card(run)
    assert data.base_model is None
    assert "/home" not in text
    assert 'base = "paligemma-3b"  # the folder of the model that was tuned' in text
    assert "The base was read from a folder" in text


def test_data_of_the_hub_are_linked_and_files_are_named_without_folders(run: Path, change: Change) -> None:
    set_option(run, "defaults", [{"override /dataset": "hub"}, {"override /task": "vqa"}])
    set_option(run, "dataset", {"path": "ann/photos", "train": "train", "validation": "test"})
    splits = {
        "train": {"rows": 1500, "digest": "sha256:aa"},
        "validation": {"rows": 297, "digest": "sha256:bb"},
    }
    change(run / "metrics.json", dataset="ann/photos test", data=splits)
    data, text = read_card(run)
    assert data.datasets == ["ann/photos"]
    assert data.eval_results[0].dataset_type == "ann/photos"
    assert "| source | hub (ann/photos) |" in text
    assert "| train split | 1,500 rows, sha256:aa |" in text
    words = ["python", "-m", "finetune", "recipe=vqa_qlora", "dataset.train=/home/ann/my data/a.jsonl"]
    set_option(run, "dataset", {"train": "/home/ann/my data/a.jsonl", "validation": "b.jsonl"})
    change(run / "metrics.json", dataset="/home/ann/my data/b.jsonl")
    change(run / "environment.json", command=words)
    data, text = read_card(run)
    assert data.datasets is None
    assert "/home" not in text
    assert "python -m finetune recipe=vqa_qlora dataset.train=a.jsonl" in text


def test_boxes_have_their_classes_and_how_they_are_read(run: Path) -> None:
    labels = [f"class {number}" for number in range(1200)]
    labels[0] = HOSTILE + "x" * 5000
    task = {
        "prompt": "detect {labels}",
        "labels": labels,
        "write_label": True,
        "classes": "one",
        "masks": True,
    }
    set_option(run, "task", task)
    (run / "predictions/validation.jsonl").unlink()
    data, text = read_card(run)
    assert "Name one or several of the classes, 1200:" in text
    assert "`class 49` and 1150 more." in text
    assert "class 50" not in text
    assert "<locY0><locX0><locY1><locX1>" in text
    assert "`mask_vae.npz`" in text
    assert data.eval_results[0].task_type == "image-segmentation"
    assert max(map(len, text.splitlines())) < 20_000


def test_what_models_and_data_say_is_no_markup(run: Path, change: Change) -> None:
    task = {"prompt": "detect {labels}", "labels": [HOSTILE, "猫"], "write_label": True}
    set_option(run, "task", task)
    change(run / "metrics.json", dataset=HOSTILE)
    change(
        run / "environment.json", command=["python", HOSTILE], gpus=[HOSTILE], packages={"torch": HOSTILE}
    )
    (run / "predictions/validation.jsonl").unlink()
    renamed = run.rename(run.with_name("a *b* <i>"))
    data, text = read_card(renamed)
    assert not set("\x1b\u202e") & set(text)
    assert "猫" in text
    assert data.model_name == "a *b* <i>"
    body = text.partition("\n---\n")[2]
    assert body.startswith("\n# a \\*b\\* \\<i>")
    # Blocks of code and spans of code show markup; outside them there is none.
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    outside = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", outside)
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[c\]|^# e|(?<!\\)\*b", outside, re.MULTILINE)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")


def test_a_prompt_that_differs_from_image_to_image_is_nobodys_to_publish(run: Path) -> None:
    file = run / "predictions/validation.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[3]["prefix"] = "answer en who is Ann's doctor?"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, text = read_card(run)
    assert "doctor" not in text
    assert "which digit" not in text
    assert "answer en {question}\n" in text
    assert "In place of `{question}`: a text of yours for the image." in text


def test_a_secret_is_in_no_card(run: Path, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "very-secret-words")
    change(run / "environment.json", command=["python", "-m", "finetune", "task.prompt=very-secret-words"])
    with pytest.raises(UserError, match="looks like a secret") as raised:
        read_card(run)
    assert "very-secret-words" not in str(raised.value)


def test_a_run_of_an_older_version_has_a_card_without_what_it_did_not_keep(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({"final": metrics["final"]}))
    (run / "environment.json").unlink()
    (run / "adapter/processor_config.json").unlink()
    data, text = read_card(run)
    assert data.eval_results[0].metric_args == {"n": 100, "unit": "%"}
    for absent in ("hardware", "versions", "gray images", "None |", "The command", "seconds"):
        assert absent not in text


def test_a_card_is_written_at_the_end_and_again_unless_it_was_changed_by_hand(
    run: Path, change: Change
) -> None:
    file = run / "adapter/README.md"
    before = file.read_text()
    assert not is_edited(before)
    assert before == write_card(read_facts(run))
    change(run / "metrics.json", final={"exact_match": 12.5, "n": 100})
    update_card(RunFolder(run))
    assert "12.5" in file.read_text() != before
    file.write_text(file.read_text().replace("12.5", "99.9"))
    update_card(RunFolder(run))
    assert "99.9" in file.read_text()
    assert is_edited("# mine\n")
    assert not is_edited("---\nlibrary_name: peft\n---\n" + "[More Information Needed]\n" * 30)


def test_resuming_and_evaluating_again_leave_a_right_card(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent.parent)
    assert not any((run / "checkpoints").rglob("README.md"))
    before = (run / "adapter/README.md").read_text()
    (run / "adapter/README.md").write_text(before.replace("# quickstart", "# mine"))
    assert main(["recipe=quickstart", *TINY_RUN, "resume=true"]) == 0
    assert (run / "adapter/README.md").read_text().count("# mine") == 1
    (run / "adapter/README.md").unlink()
    assert main(["evaluate", "run=runs/quickstart", "evaluation.limit=20"]) == 0
    card = (run / "adapter/README.md").read_text()
    assert "### Later evaluation, validation split, 20 examples" in card
    # The Hub lists the run's own scores alone.
    assert (
        yaml.safe_load(card.split("---")[1])["model-index"]
        == yaml.safe_load(before.split("---")[1])["model-index"]
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda run: (run / "config.yaml").unlink(), "holds no run", id="no run"),
        pytest.param(
            lambda run: (run / "adapter/adapter_config.json").unlink(), "is not finished", id="no result"
        ),
        pytest.param(
            lambda run: (run / "metrics.json").write_text("{}"), "has no scores yet", id="no scores"
        ),
        pytest.param(
            lambda run: (run / "metrics.json").write_text("{"), "cannot be read", id="half a file"
        ),
        pytest.param(
            lambda run: (run / "adapter/adapter_config.json").write_text("{"),
            "cannot be read",
            id="half an adapter",
        ),
    ],
)
def test_a_folder_that_is_no_finished_run_is_refused(
    run: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(run)
    with pytest.raises(UserError, match=message) as raised:
        read_facts(run)
    assert str(run) in str(raised.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there. Expected the folder of a finished run"):
        read_facts(tmp_path / "none")
