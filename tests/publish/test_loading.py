"""The code of a card, run as a reader would: by itself, it gives the run's own answers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

import finetune
from finetune.cli import main
from finetune.model.load import TINY_BASE, load_processor
from finetune.publish.card import write_card
from finetune.publish.facts import read_facts
from finetune.publish.loading import show_code, show_decoding
from tests.hub.client import ConnectedHub
from tests.publish.conftest import TINY_RUN, answer_by_code, find_code, read_rows


def check_same(answers: list[str], run: Path) -> None:
    predictions = [row["prediction"] for row in read_rows(run)]
    assert len(set(predictions)) > 3
    assert answers == predictions


def test_the_code_gives_the_answers_of_the_run(
    finished: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits)
    names: dict[str, object] = {}
    exec(show_code(read_facts(finished), folder=str(finished / "adapter")), names)
    ask = names["ask"]
    assert callable(ask)
    rows = read_rows(finished)[:24]
    assert [ask(f"{n}.png", row["prefix"]) for n, row in enumerate(rows)] == [r["prediction"] for r in rows]


METHODS = [
    pytest.param(["recipe=quickstart"], id="qlora", marks=pytest.mark.exhaustive),
    pytest.param(
        ["recipe=quickstart", "peft=dora", "peft.modules_to_save=[multi_modal_projector]"],
        id="dora and a module in full",
        marks=pytest.mark.exhaustive,
    ),
    pytest.param(
        ["recipe=quickstart_full", "model.dtype=bfloat16", "freeze=vision"],
        id="full with frozen towers",
        marks=pytest.mark.slow,
    ),
    pytest.param(["recipe=quickstart", "peft=lora"], id="lora", marks=pytest.mark.exhaustive),
    pytest.param(["recipe=quickstart", "peft=rslora"], id="rslora", marks=pytest.mark.exhaustive),
    pytest.param(["recipe=quickstart_full"], id="full", marks=pytest.mark.exhaustive),
    pytest.param(
        ["recipe=quickstart_full", "model.dtype=bfloat16", "freeze=attention_only"],
        id="attention alone",
        marks=pytest.mark.exhaustive,
    ),
    pytest.param(
        ["recipe=quickstart", "peft=lora", "peft.modules_to_save=[embed_tokens]"],
        id="tied embedding in full",
        marks=pytest.mark.exhaustive,
    ),
    pytest.param(
        ["recipe=quickstart", "peft=lora", "model.learning_dtype=bfloat16"],
        id="adapter in bfloat16",
        marks=pytest.mark.exhaustive,
    ),
    pytest.param(
        ["recipe=quickstart", "peft=lora", "model.dtype=float32", "trainer.bf16=false"],
        id="without autocast",
        marks=pytest.mark.exhaustive,
    ),
    pytest.param(
        ["recipe=quickstart", "image.resize=bilinear", "dataset.size=91"],
        id="another kernel",
        marks=pytest.mark.exhaustive,
    ),
]


@pytest.mark.parametrize("words", METHODS)
def test_the_card_of_a_run_has_code_that_gives_its_answers(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, *TINY_RUN, "run_name=a"]) == 0
    run = tmp_path / "runs/a"
    result = run / read_facts(run).kind.value
    code = find_code((result / "README.md").read_text(encoding="utf-8"))
    if "dataset.size=91" in words:
        digits = write_enlarged(tmp_path / "enlarged", 91)
    check_same(answer_by_code(code, run, digits, result), run)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["model.dtype=bfloat16", "freeze.last_n=1"], id="last layers"),
        pytest.param(
            ["model.dtype=bfloat16", "freeze.last_n=2", "freeze.language_model=attention"],
            id="attention of the last layers",
        ),
        pytest.param(
            ["model.dtype=float32", "model.learning_dtype=bfloat16", "freeze=vision"],
            id="learned in fewer bits than frozen",
        ),
    ],
)
def test_the_code_loads_each_weight_of_a_model_in_the_format_of_the_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipe=quickstart_full", *words, *TINY_RUN, "run_name=a"]) == 0
    names: dict[str, Any] = {}
    code = show_code(read_facts(tmp_path / "runs/a"), folder="runs/a/model")
    exec(code.partition("def ask")[0], names)
    own = dict(finetune.load("runs/a").model.named_parameters())
    assert len({value.dtype for value in own.values()}) == 2
    assert own.keys() == dict(names["model"].named_parameters()).keys()
    for name, value in names["model"].named_parameters():
        torch.testing.assert_close(value, own[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("words", "learned"),
    [
        (["peft=qlora", "peft.modules_to_save=[multi_modal_projector]"], torch.float32),
        (["peft=dora", "peft.modules_to_save=[multi_modal_projector]"], torch.float32),
        (["peft=lora", "peft.modules_to_save=[lm_head]"], torch.float32),
        (
            ["peft=lora", "peft.modules_to_save=[embed_tokens]", "model.learning_dtype=bfloat16"],
            torch.bfloat16,
        ),
        (["peft=rslora"], torch.float32),
    ],
    ids=["qlora", "dora", "tied head", "bfloat16", "rslora"],
)
def test_the_code_loads_every_value_as_it_was_stored(
    words: list[str], learned: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipe=quickstart", *words, *TINY_RUN, "run_name=a"]) == 0
    adapter = tmp_path / "runs/a/adapter"
    names: dict[str, Any] = {}
    exec(show_code(read_facts(tmp_path / "runs/a"), folder=str(adapter)).partition("def ask")[0], names)
    loaded = get_peft_model_state_dict(names["model"])
    stored = load_file(adapter / "adapter_model.safetensors")
    assert loaded.keys() == stored.keys()
    for name, value in stored.items():
        assert loaded[name].dtype == value.dtype == learned, name
        assert torch.equal(loaded[name], value), name
    exact = all(torch.equal(value, value.bfloat16().to(learned)) for value in stored.values())
    assert exact == (learned == torch.bfloat16)


def write_enlarged(folder: Path, size: int) -> Path:
    from finetune.data.shipped.digits import load_digits

    folder.mkdir()
    for number, row in enumerate(load_digits(size).validation.select(range(100))):
        (folder / f"{number}.png").write_bytes(row["image"]["bytes"])
    (folder / "image.jpg").write_bytes((folder / "0.png").read_bytes())
    return folder


@pytest.mark.slow
def test_the_code_of_a_repository_loads_it_with_the_base_inside(
    finished: Path, digits: Path, tmp_path: Path, hub: ConnectedHub
) -> None:
    card = write_card(read_facts(finished), repo="ann/digits")
    api = HfApi()
    api.create_repo("ann/digits", private=True)
    api.upload_folder(repo_id="ann/digits", folder_path=finished / "adapter")
    api.upload_folder(repo_id="ann/digits", folder_path=TINY_BASE, path_in_repo="base")
    check_same(answer_by_code(find_code(card), finished, digits, tmp_path / "reader", hub.env), finished)


@pytest.mark.slow
def test_the_code_of_an_adapter_loads_its_base_from_the_hub(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: ConnectedHub
) -> None:
    api = HfApi()
    api.create_repo("ann/tiny")
    api.upload_folder(repo_id="ann/tiny", folder_path=TINY_BASE)
    monkeypatch.chdir(tmp_path)
    words = ["recipe=quickstart", "model.path=ann/tiny", *TINY_RUN, "run_name=a"]
    assert main([*words, "peft=dora", "peft.modules_to_save=[multi_modal_projector]"]) == 0
    run = tmp_path / "runs/a"
    card = write_card(read_facts(run), repo="ann/digits")
    assert 'base = "ann/tiny"' in card
    api.create_repo("ann/digits")
    api.upload_folder(repo_id="ann/digits", folder_path=run / "adapter")
    check_same(answer_by_code(find_code(card), run, digits, tmp_path / "reader", hub.env), run)


def test_paligemma_2_is_loaded_as_it_was_trained(finished: Path) -> None:
    facts = read_facts(finished)
    code = show_code(
        replace(
            facts, backbone="gemma2", base=replace(facts.base, path="g/p2", hub_id="g/p2", revision="abc")
        )
    )
    compile(code, "card", "exec")
    assert 'config = PaliGemmaConfig.from_pretrained(base, revision="abc")' in code
    assert "config.text_config.final_logit_softcapping = None" in code
    assert "config.text_config.sliding_window = 16777216" in code


def test_two_images_are_asked_about_at_once(
    run: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run / "predictions/validation.jsonl"
    rows = read_rows(run)
    file.write_text("".join(json.dumps({**row, "image": "a.jpg, b, c.jpg"}) + "\n" for row in rows))
    assert read_facts(run).images == 1
    file.write_text("".join(json.dumps({**row, "image": "a.jpg, b.jpg"}) + "\n" for row in rows))
    monkeypatch.chdir(digits)
    code = show_code(read_facts(run), folder=str(run / "adapter"))
    assert 'ask(["image1.jpg", "image2.jpg"], "answer en which digit is this?")' in code
    names: dict[str, object] = {}
    exec(code.rpartition("answer = ask")[0], names)
    assert isinstance(names["ask"](["0.png", "1.png"], "answer en"), str)  # type: ignore[operator]


@pytest.mark.parametrize(
    "prompt",
    [
        "detect cat ; dog",
        "Question: what?\nContext: none\nOptions: (A) b\nAnswer:",
        "answer en  two  spaces \t ",
        "答えて。 ¿qué? 🙂",
        "",
        "ends with a dot.",
    ],
)
def test_the_processor_reads_a_prompt_as_the_run_does(prompt: str) -> None:
    from PIL import Image

    from finetune.data.batches.collator import Collator
    from finetune.example import Example

    processor = load_processor("tiny")
    image = Image.new("RGB", (70, 50), "red")
    ours = Collator(processor).build_prompts([Example("a", (image,), prompt, ())])["input_ids"]
    plain = processor(text="<image>" + prompt, images=image, return_tensors="pt")["input_ids"]
    assert ours.tolist() == plain.tolist()


def test_the_boxes_of_an_answer_are_read_by_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image, ImageOps

    from finetune.codecs.boxes import decode_boxes

    answer = "<loc0102><loc0000><loc1023><loc0307> cup ; <loc0001><loc0002><loc0003><loc0004> hot dog"
    monkeypatch.chdir(tmp_path)
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[274] = 6
    turned.save("image.jpg", exif=exif)
    printed: list[tuple[object, ...]] = []
    names = {
        "answer": answer,
        "Image": Image,
        "ImageOps": ImageOps,
        "print": lambda *row: printed.append(row),
    }
    exec(show_decoding(1023), names)
    expected = [(one.label, *one.box_xyxy) for one in decode_boxes(answer, (40, 30)).objects]
    assert printed == [(label, *map(pytest.approx, box)) for label, *box in expected]
    assert len(show_decoding(1023).splitlines()) <= 9
