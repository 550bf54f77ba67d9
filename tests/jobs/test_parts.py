import json
from pathlib import Path

import pytest
from PIL import Image
from transformers import PaliGemmaProcessor

from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.train_mask_vae import save_mask_vae
from finetune.config.compose import compose
from finetune.data.augment import FLIP_WORDS, Augmentation
from finetune.data.collator import Collator
from finetune.data.digits import load_digits
from finetune.data.mixture import count_parts
from finetune.errors import UserError
from finetune.jobs.parts import (
    build_augmentation,
    build_task,
    build_train,
    build_validation,
    check_references,
    load_splits,
)
from finetune.jobs.target import call_target
from finetune.metrics.text import ExactMatch


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["augmentation.min_visible=0.5"], None),
        (
            ["augmentation=mild"],
            Augmentation(flip=0.5, flip_words=FLIP_WORDS, brightness=0.2, contrast=0.2, saturation=0.2),
        ),
        (["augmentation.saturation=0.1"], Augmentation(saturation=0.1)),
        (
            ["augmentation.resize=[0.5,1]", "augmentation.flip_words=[links]"],
            Augmentation(resize=(0.5, 1.0), flip_words=["links"]),
        ),
    ],
)
def test_an_augmentation_is_what_its_options_say_and_null_where_all_are_off(
    words: list[str], expected: Augmentation | None
) -> None:
    assert build_augmentation(compose(["recipe=quickstart", *words])) == expected


def test_only_the_training_pictures_are_changed(processor: PaliGemmaProcessor) -> None:
    config = compose(["recipe=quickstart", "augmentation=mild"])
    splits = load_digits(56)
    task = build_task(config, splits)
    train, _ = build_train(config, splits, task, Collator(processor))
    plain, _ = build_train(compose(["recipe=quickstart"]), splits, task, Collator(processor))
    assert train[0, 0].images != plain[0, 0].images
    validation = build_validation(config, splits, task)
    assert validation[0].images == build_validation(compose(["recipe=quickstart"]), splits, task)[0].images


@pytest.mark.parametrize(
    ("word", "refused"), [("augmentation=strong", True), ("augmentation.contrast=1", False)]
)
def test_boxes_in_text_are_refused_before_anything_is_trained(
    tmp_path: Path, processor: PaliGemmaProcessor, word: str, refused: bool
) -> None:
    lines = []
    for number, suffix in enumerate(["none", "<loc0001><loc0002><loc0300><loc0400> cat", "none"]):
        Image.new("RGB", (30, 20), (90 * number, 0, 0)).save(tmp_path / f"{number}.png")
        row = {"id": f"r{number}", "image": f"{number}.png", "prefix": "detect cat", "suffix": suffix}
        lines.append(json.dumps(row))
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(lines))
    words = ["recipe=jsonl_qlora", f"dataset.train={file}", f"dataset.validation={file}", word]
    config = compose([*words, "dataset.validation_fraction=null"])
    splits = load_splits(config)
    task = build_task(config, splits)
    if refused:
        with pytest.raises(UserError, match="Row `r1` has boxes in its text"):
            build_train(config, splits, task, Collator(processor))
    else:
        assert len(build_train(config, splits, task, Collator(processor))[0]) == 3


def write_instances(folder: Path, *labels: str) -> Path:
    """A picture with a box of each class, in COCO's JSON."""
    folder.mkdir()
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": number, "bbox": [2, 1, 6, 4]}
            for number in range(len(labels))
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(labels)],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("classes", ["all", "one"])
def test_a_class_that_validation_alone_has_is_named_before_anything_is_trained(
    tmp_path: Path, classes: str
) -> None:
    files = [write_instances(tmp_path / "a", "cat"), write_instances(tmp_path / "b", "cat", "cow")]
    words = [f"dataset.train={files[0]}", f"dataset.validation={files[1]}", f"task.classes={classes}"]
    config = compose(["recipe=coco_json_qlora", *words])
    splits = load_splits(config)
    validation = build_validation(config, splits, build_task(config, splits))
    with pytest.raises(UserError, match=r"Row `1.*class `cow` is not in task.labels"):
        check_references(call_target(config.metric), validation)


def test_a_training_split_without_any_object_has_no_classes(tmp_path: Path) -> None:
    files = [write_instances(tmp_path / "a"), write_instances(tmp_path / "b", "cow")]
    words = [f"dataset.train={files[0]}", f"dataset.validation={files[1]}"]
    config = compose(["recipe=coco_json_qlora", *words])
    with pytest.raises(UserError, match="no row of it has an object"):
        build_task(config, load_splits(config))
    named = compose(["recipe=coco_json_qlora", *words, "task.labels=[cow]"])
    build_task(named, load_splits(named))


def test_a_null_in_a_validation_prompt_is_found_before_anything_is_trained() -> None:
    config, splits = compose(["recipe=quickstart"]), load_digits(56)
    second = splits.validation[1]["id"]
    rows = splits.validation.map(lambda row: {"question": None if row["id"] == second else "which?"})
    validation = build_validation(config, splits._replace(validation=rows), build_task(config, splits))
    with pytest.raises(UserError, match=f"Row `{second}`: column `question` is null"):
        check_references(ExactMatch(), validation)


def test_a_limit_takes_as_many_rows_of_each_part_of_a_mixture(processor: PaliGemmaProcessor) -> None:
    parts = {"digits": "vqa", "canvas": "detection"}
    words = [
        word
        for source, task in parts.items()
        for word in (
            f"+dataset@dataset.parts.{source}.source={source}",
            f"+task@dataset.parts.{source}.task={task}",
        )
    ]
    words += ["dataset.parts.canvas.source.train=9", "dataset.parts.canvas.source.validation=3"]
    config = compose(["recipe=quickstart", "dataset=mixture", *words, "trainer.limit=5"])
    splits = load_splits(config)
    train, _ = build_train(config, splits, build_task(config, splits), Collator(processor))
    assert count_parts(train.rows) == {"digits": 2, "canvas": 3}


def test_what_masks_lack_is_named_before_anything_is_trained(
    tmp_path: Path, processor: PaliGemmaProcessor
) -> None:
    folder = write_instances(tmp_path / "a", "cat")
    save_mask_vae(MaskVae(), tmp_path / "vae.npz")
    words = [f"dataset.train={folder}", f"dataset.validation={folder}"]
    config = compose(["recipe=segment_qlora", *words, f"task.mask_vae={tmp_path / 'vae.npz'}"])
    splits = load_splits(config)
    with pytest.raises(UserError, match="Row `1`: object `cat` has no mask to learn from"):
        build_train(config, splits, build_task(config, splits), Collator(processor))
