import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from transformers import PaliGemmaProcessor

from finetune.assembly.custom import instantiate
from finetune.assembly.data import (
    build_augmentation,
    build_collators,
    build_train,
    build_validation,
    check_validation,
)
from finetune.assembly.lengths import measure_rows
from finetune.assembly.sources import build_task, load_splits
from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.train_mask_vae import save_mask_vae
from finetune.config.compose import compose
from finetune.data.batches.collator import Collator
from finetune.data.examples.augment import Augmentation
from finetune.data.examples.mixture import count_parts
from finetune.data.examples.options import AugmentationConfig
from finetune.data.shipped.digits import load_digits
from finetune.errors import UserError
from finetune.example import Example
from finetune.metrics.text import ExactMatch
from tests.conftest import break_inside, noise_image


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["augmentation.min_visible=0.5"], None),
        (
            ["augmentation=mild"],
            AugmentationConfig(flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2),
        ),
        (["augmentation.saturation=0.1"], AugmentationConfig(saturation=0.1)),
        (
            ["augmentation.resize=[0.5,1]", "augmentation.flip_words=[links]"],
            AugmentationConfig(resize=[0.5, 1.0], flip_words=["links"]),
        ),
    ],
)
def test_an_augmentation_is_what_its_options_say_and_null_where_all_are_off(
    words: list[str], expected: AugmentationConfig | None
) -> None:
    augmentation = build_augmentation(compose(["recipe=quickstart", *words]).augmentation)
    assert augmentation == (None if expected is None else Augmentation(expected))


def test_only_the_training_pictures_are_changed(processor: PaliGemmaProcessor) -> None:
    config = compose(["recipe=quickstart", "augmentation=mild"])
    splits = load_digits(56)
    task = build_task(config, splits)
    train = build_train(config, splits, task, Collator(processor))[0].examples
    plain = build_train(compose(["recipe=quickstart"]), splits, task, Collator(processor))[0].examples
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
@pytest.mark.parametrize("on_error", ["error", "skip"])
def test_a_class_that_is_not_in_the_runs_list_is_a_fault(
    tmp_path: Path, processor: PaliGemmaProcessor, classes: str, on_error: str
) -> None:
    files = [write_instances(tmp_path / "a", "cat"), write_instances(tmp_path / "b", "cat", "cow")]
    config = compose(
        [
            "recipe=coco_json_qlora",
            f"dataset.train={files[0]}",
            f"dataset.validation={files[1]}",
            f"dataset.on_error={on_error}",
            f"task.classes={classes}",
            "task.labels=[cat]",
        ]
    )
    splits = load_splits(config)
    validation = build_validation(config, splits, build_task(config, splits))
    message = r"Row `1.*class `cow` is not in task.labels.* They are: cat"
    if on_error == "skip":
        message = f"All 1 validation rows have faults; the first: .*{message}"
    with pytest.raises(UserError, match=message):
        check_validation(config, validation, Collator(processor), instantiate(config.metric))


def test_a_class_that_validation_alone_has_is_named_with_the_list_to_give(
    tmp_path: Path, processor: PaliGemmaProcessor
) -> None:
    files = [write_instances(tmp_path / "a", "dog", "cat"), write_instances(tmp_path / "b", "cat", "cow")]
    config = compose(
        ["recipe=coco_json_qlora", f"dataset.train={files[0]}", f"dataset.validation={files[1]}"]
    )
    splits = load_splits(config)
    validation = build_validation(config, splits, build_task(config, splits))
    message = (
        r"validation \(.*/b/_annotations.coco.json: image 1\): Row `1`"
        r".*only the validation split has cow.*task.labels=\[cat,dog,cow\]"
    )
    with pytest.raises(UserError, match=message):
        check_validation(config, validation, Collator(processor), instantiate(config.metric))


def test_a_training_split_without_any_object_has_no_classes(tmp_path: Path) -> None:
    files = [write_instances(tmp_path / "a"), write_instances(tmp_path / "b", "cow")]
    words = [f"dataset.train={files[0]}", f"dataset.validation={files[1]}"]
    config = compose(["recipe=coco_json_qlora", *words])
    with pytest.raises(UserError, match="no row of it has an object"):
        build_task(config, load_splits(config))
    named = compose(["recipe=coco_json_qlora", *words, "task.labels=[cow]"])
    build_task(named, load_splits(named))


def test_a_null_in_a_validation_prompt_is_found_before_anything_is_trained(
    processor: PaliGemmaProcessor,
) -> None:
    config, splits = compose(["recipe=quickstart"]), load_digits(56)
    second = splits.validation[1]["id"]
    rows = splits.validation.map(lambda row: {"question": None if row["id"] == second else "which?"})
    validation = build_validation(config, splits._replace(validation=rows), build_task(config, splits))
    with pytest.raises(UserError, match=f"Row `{second}`: column `question` is null"):
        check_validation(config, validation, Collator(processor), ExactMatch())


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
    assert count_parts(train.examples.rows) == {"digits": 2, "canvas": 3}


def test_a_part_with_one_image_is_mixed_with_one_of_several(
    processor: PaliGemmaProcessor, tmp_path: Path
) -> None:
    """Rows of the first have no list of images; what a step needs is estimated from their number."""
    noise_image(0).save(tmp_path / "a.png")
    words = []
    for part, image in {"one": "a.png", "three": ["a.png"] * 3}.items():
        row = {"image": image, "prefix": "caption en", "suffix": "a cat"}
        (tmp_path / f"{part}.jsonl").write_text(json.dumps(row))
        source = f"dataset.parts.{part}.source"
        words += [f"+dataset@{source}=jsonl", f"+task@dataset.parts.{part}.task=text"]
        words += [f"{source}.{split}={tmp_path}/{part}.jsonl" for split in ("train", "validation")]
    config = compose(["recipe=quickstart", "dataset=mixture", *words])
    splits = load_splits(config)
    train, _ = build_train(config, splits, build_task(config, splits), Collator(processor))
    lengths = measure_rows(train, config.collator)
    assert (lengths.images, lengths.mean_images) == (3, 2)


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


def write_jsonl(folder: Path, *suffixes: object, prefix: str = "what color?") -> list[str]:
    """Plain images with these suffixes, and the words that train and evaluate on them."""
    lines = []
    for number, suffix in enumerate(suffixes, 1):
        Image.new("RGB", (30, 20), (20 * number, 0, 0)).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "prefix": prefix, "suffix": suffix}))
    file = folder / "rows.jsonl"
    file.write_text("\n".join(lines))
    files = [f"dataset.train={file}", f"dataset.validation={file}", "dataset.validation_fraction=null"]
    return ["recipe=jsonl_qlora", "trainer.dataloader_num_workers=0", *files]


@pytest.mark.parametrize(
    ("words", "suffix", "message"),
    [
        pytest.param(
            [], "a <pad>", r"Row `2`: its text 'a <pad>' contains the reserved token <pad>", id="pad"
        ),
        pytest.param([], ["a", "<image>"], "reserved token <image>", id="image token among several"),
        pytest.param(
            ["task=box_text", "metric=detection"],
            "<loc0001><loc0002><loc1024><loc0004> cat",
            "not all boxes: .*<loc1024>",
            id="no location token",
        ),
        pytest.param(
            ["task=box_text", "metric=detection"],
            ["<loc0001><loc0002><loc0003><loc0004> cat", "<loc0001><loc0002><loc0003> cat"],
            "not all boxes: .* 3 location tokens in a row",
            id="three tokens in the second suffix",
        ),
        pytest.param(
            ["task=box_text", "metric=detection"],
            "<loc0001><loc0900><loc0300><loc0004> cat",
            "box 1 of its suffix is inverted",
            id="inverted",
        ),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_text_that_cannot_be_used_is_reported_or_left_out_of_either_split(
    tmp_path: Path,
    processor: PaliGemmaProcessor,
    words: list[str],
    suffix: object,
    message: str,
    split: str,
) -> None:
    words = [*write_jsonl(tmp_path, "<loc0001><loc0002><loc0003><loc0004> cat", suffix), *words]

    def check(*more: str) -> tuple[list[str], list[dict[str, str]]]:
        config = compose([*words, *more])
        splits = load_splits(config)
        task, collator = build_task(config, splits), Collator(processor)
        if split == "train":
            left, skipped = build_train(config, splits, task, collator)
        else:
            rows = build_validation(config, splits, task)
            left, skipped = check_validation(config, rows, collator, instantiate(config.metric))
        return left.examples.rows["id"][:], skipped

    with pytest.raises(
        UserError, match=rf"(?s){split} \(.*rows.jsonl line 2\): .*{message}.*dataset.on_error=skip"
    ):
        check()
    ids, skipped = check("dataset.on_error=skip")
    assert ids == ["1"]
    assert [(line["split"], line["id"]) for line in skipped] == [(split, "2")]


def test_an_answer_without_text_is_right_where_there_is_no_object(
    tmp_path: Path, processor: PaliGemmaProcessor
) -> None:
    words = write_jsonl(tmp_path, "<loc0001><loc0002><loc0003><loc0004> cat", "", prefix="detect cat")
    config = compose([*words, "task=box_text", "metric=detection"])
    splits = load_splits(config)
    task = build_task(config, splits)
    assert len(build_train(config, splits, task, Collator(processor))[0]) == 2


def test_boxes_that_are_scored_as_text_get_a_hint(
    tmp_path: Path,
    processor: PaliGemmaProcessor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = compose(write_jsonl(tmp_path, "<loc0001><loc0002><loc0003><loc0004> cat", "red"))
    splits = load_splits(config)
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)  # a job before may have ended it
    build_train(config, splits, build_task(config, splits), Collator(processor))
    assert "1 of 2 train examples have boxes" in caplog.text
    assert "task=box_text" in caplog.text


def test_a_reference_of_thousands_of_tokens_is_reported_before_anything_is_trained(
    tmp_path: Path, processor: PaliGemmaProcessor
) -> None:
    words = write_jsonl(tmp_path, "red", "blue " * 5000)
    config = compose(words)
    splits = load_splits(config)
    validation = build_validation(config, splits, build_task(config, splits))
    with pytest.raises(UserError, match=r"Row `2` is too long to be evaluated: .* the limit is 2,048"):
        check_validation(config, validation, Collator(processor), ExactMatch())


def test_what_only_the_whole_set_shows_is_found_before_anything_is_trained(
    processor: PaliGemmaProcessor,
) -> None:
    config = compose(["recipe=quickstart", "metric=pair_accuracy", "evaluation.limit=20"])
    splits = load_splits(config)
    validation = build_validation(config, splits, build_task(config, splits))
    with pytest.raises(UserError, match="a pair is two rows with the same `group`"):
        check_validation(config, validation, Collator(processor), instantiate(config.metric))


@pytest.mark.parametrize("on_error", ["error", "skip"])
def test_every_image_is_decoded_beforehand_where_that_is_asked_for(
    tmp_path: Path, processor: PaliGemmaProcessor, on_error: str
) -> None:
    words = write_jsonl(tmp_path, "red", "blue", "green")
    noise_image(0, 64, 64).save(tmp_path / "2.png")
    break_inside(tmp_path / "2.png")
    config = compose([*words, "check_images=true", f"dataset.on_error={on_error}"])
    splits = load_splits(config)
    task = build_task(config, splits)
    validation = build_validation(config, splits, task)
    checks = [
        partial(build_train, config, splits, task, Collator(processor)),
        partial(check_validation, config, validation, Collator(processor), ExactMatch()),
    ]
    for check in checks:
        if on_error == "error":
            with pytest.raises(UserError, match=r"example `2`: image .*2\.png` cannot be decoded"):
                check()
        else:
            left, skipped = check()
            assert left.examples.rows["id"][:] == ["1", "3"]
            assert [line["id"] for line in skipped] == ["2"]


@pytest.mark.parametrize("overflow", ["drop", "shorten_prefix"])
def test_one_long_answer_among_several_costs_no_example(
    processor: PaliGemmaProcessor, overflow: str
) -> None:
    long = " ".join(["square"] * 140)
    splits = load_digits(56)
    rows = splits.train.select(range(6))
    first = rows[0]["id"]
    answers = [["two", long, "2"], *([["two"]] * 4), [long]]
    rows = rows.remove_columns("answers").add_column("answers", answers)
    config = compose(["recipe=quickstart", f"collator.overflow={overflow}"])
    task = build_task(config, splits)
    collator, _ = build_collators(config, processor)
    survey, left_out = build_train(config, splits._replace(train=rows), task, collator)
    train = survey.examples
    assert len(train) == 5
    assert [record.get("suffix") for record in left_out] == [None, long]
    assert left_out[1]["id"] == first
    assert "with this one of its 3 suffixes it needs" in left_out[1]["reason"]
    chosen = {collator.choose_suffix(train[epoch, 0]) for epoch in range(20)}
    assert long in chosen, "the example keeps what it is scored against"
    ids = {tuple(collator.encode(train[epoch, 0]).suffixes[0]) for epoch in range(20)}
    kept = [collator.encode(replace(train[0], suffixes=(text,))) for text in ("two", "2")]
    assert ids == {tuple(row.suffixes[0]) for row in kept}

    strict = compose(["recipe=quickstart", "collator.overflow=error"])
    with pytest.raises(UserError, match=f"2 of 6 train examples are too long: .*`{first}` with this one"):
        build_train(strict, splits._replace(train=rows), task, build_collators(strict, processor)[0])


def test_a_text_of_the_papers_length_is_whole(processor: PaliGemmaProcessor) -> None:
    config = compose(["recipe=vqav2_full"])
    collator, _ = build_collators(config, processor)
    image = Image.new("RGB", (4, 4))
    for words in range(1, 60):
        example = Example("x", (image,), " ".join(["circle"] * words), ("red",))
        tokens = collator.count_text_tokens(example.prefix, "red")
        before, (after,) = collator.encode(example)
        assert len(before) - collator.tokens_per_image + len(after) == min(tokens, 33)
        if tokens <= 33:
            assert (before, [after]) == Collator(processor).encode(example)
    assert tokens > 33
