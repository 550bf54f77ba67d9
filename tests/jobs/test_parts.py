import json
from pathlib import Path

import pytest
from PIL import Image
from transformers import PaliGemmaProcessor

from finetune.config.compose import compose
from finetune.data.augment import FLIP_WORDS, Augmentation
from finetune.data.collator import Collator
from finetune.data.digits import load_digits
from finetune.errors import UserError
from finetune.jobs.parts import build_augmentation, build_task, build_train, build_validation, load_splits


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
