import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from finetune.assembly.custom import build_metric
from finetune.assembly.mask_codec import keep_mask_vae, use_mask_vae
from finetune.assembly.sources import build_task, load_splits, read_as_scored, record_data
from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.train_mask_vae import save_mask_vae
from finetune.config.compose import add_recipe, compose, compose_words, to_options, write_recipe
from finetune.data.rows import Splits
from finetune.data.shipped.digits import load_digits
from finetune.errors import UserError
from finetune.run.folder import Launch
from finetune.tasks.mixture import MixedTask
from finetune.tasks.objects import ObjectsTask, object_tasks


def write_coco(folder: Path, *labels: str) -> Path:
    """An image with a box and a mask of each class, in COCO's JSON."""
    folder.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": number,
                "bbox": [2, 1, 6, 4],
                "segmentation": [[2, 1, 8, 1, 8, 5, 2, 5]],
            }
            for number in range(len(labels))
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(labels)],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


def write_yolo(folder: Path) -> Path:
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(folder / split / f"{split}.png")
        (folder / split / f"{split}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "data.yaml").write_text("train: train\nval: val\nnames: [cat]\n")
    return folder / "data.yaml"


def test_an_evaluation_with_a_list_of_classes_reads_the_validation_split_alone(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "b", "cat")
    for train in ("nowhere", "null"):
        words = [f"dataset.train={train}", f"dataset.validation={folder}", "task.labels=[dog,cat]"]
        config = compose(["recipe=coco_json_qlora", *words])
        splits = load_splits(config, training=False)
        assert (len(splits.train), len(splits.validation)) == (0, 1)
        task = build_task(config, splits)
        assert task.build_text(splits.validation[0]).prefix == "detect dog ; cat"
    with pytest.raises(UserError, match="dataset.train is missing"):
        load_splits(config)


def test_an_evaluation_without_a_list_takes_it_from_the_training_split(tmp_path: Path) -> None:
    folders = [write_coco(tmp_path / "a", "cat", "dog"), write_coco(tmp_path / "b", "cat")]
    words = [f"dataset.train={folders[0]}", f"dataset.validation={folders[1]}"]
    config = compose(["recipe=coco_json_qlora", *words])
    task = build_task(config, load_splits(config, training=False))
    assert isinstance(task, ObjectsTask)
    assert task.options.labels == ["cat", "dog"]


def test_yolos_own_validation_split_needs_no_training_images(tmp_path: Path) -> None:
    file = write_yolo(tmp_path)
    (tmp_path / "train/train.png").unlink()
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    config = compose(["recipe=yolo_qlora", f"dataset.train={file}", "task.labels=[cat]"])
    splits = load_splits(config, training=False)
    assert (len(splits.train), splits.validation["id"][:]) == (0, ["val/val.png"])


def test_a_held_out_share_says_that_it_needs_the_training_file(tmp_path: Path) -> None:
    config = compose(["recipe=jsonl_qlora", f"dataset.train={tmp_path}/gone.jsonl"])
    with pytest.raises(UserError, match=r"gone.jsonl. The validation split is a share of it"):
        load_splits(config, training=False)


def test_faults_of_the_validation_split_are_listed_once(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    right = {"image": "a.png", "prefix": "x", "suffix": "y"}
    (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, [right, {**right, "suffix": None}])))
    words = ["dataset.train=null", f"dataset.validation={tmp_path}/v.jsonl", "dataset.on_error=skip"]
    config = compose(["recipe=jsonl_qlora", "dataset.validation_fraction=null", *words])
    splits = load_splits(config, training=False)
    assert len(splits.validation) == 1
    assert len(splits.skipped) == 1


def test_a_task_of_boxes_on_rows_without_any_names_the_column() -> None:
    config = compose(["recipe=quickstart", "task=detection", "metric=detection"])
    with pytest.raises(UserError, match="The task reads column `objects`"):
        build_task(config, load_splits(config))


def test_a_class_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "a", "cat")
    words = [f"dataset.train={folder}", f"dataset.validation={folder}", "task.labels=[cat,dog,cat]"]
    config = compose(["recipe=coco_json_qlora", *words])
    with pytest.raises(UserError, match="names a class twice: cat, dog, cat"):
        build_task(config, load_splits(config))


def mixture_words(tmp_path: Path, *settings: str) -> list[str]:
    """Two parts of boxes with masks, each with a codec of its own setting, and one of text."""
    words = ["+dataset@dataset.parts.digits.source=digits", "+task@dataset.parts.digits.task=vqa"]
    for number, setting in enumerate(settings):
        part = f"dataset.parts.seg{number}"
        folder = write_coco(tmp_path / f"part{number}", "cat", f"thing{number}")
        words += [
            f"+dataset@{part}.source=coco",
            f"{part}.source.train={folder}",
            f"{part}.source.validation={folder}",
            f"+task@{part}.task=segmentation",
            f"{part}.task.mask_vae={setting}",
        ]
    return ["recipe=quickstart", "dataset=mixture", *words]


def test_a_mixture_keeps_its_parts_classes_and_its_one_mask_codec(tmp_path: Path) -> None:
    save_mask_vae(MaskVae(), tmp_path / "vae.npz")
    composed, choices = compose_words(mixture_words(tmp_path, *[f"{tmp_path}/vae.npz"] * 2))
    config = to_options(composed)
    task = build_task(config, load_splits(config))
    assert isinstance(task, MixedTask)
    keep_mask_vae(task, tmp_path / "kept.npz")
    assert (tmp_path / "kept.npz").read_bytes() == (tmp_path / "vae.npz").read_bytes()

    launch = record_data(Launch(tmp_path, write_recipe(composed, choices), []), task, config.evaluation)
    assert launch.recipe.startswith("# @package _global_\n")
    recorded: Any = OmegaConf.create(launch.recipe)
    parts = recorded.dataset.parts
    assert [parts[name].task.labels for name in ("seg0", "seg1")] == [["cat", "thing0"], ["cat", "thing1"]]
    assert "labels" not in parts.digits.task

    (tmp_path / "config.yaml").write_text(launch.recipe)
    config = compose([f"recipe={add_recipe(tmp_path / 'config.yaml')}"])
    config = use_mask_vae(config, tmp_path / "kept.npz")
    again = build_task(config, load_splits(config, training=False))
    assert isinstance(again, MixedTask)
    codecs = {name: part.reader.mask_vae for name, part in object_tasks(again).items()}
    assert codecs == {"seg0": f"{tmp_path}/kept.npz", "seg1": f"{tmp_path}/kept.npz"}
    assert set(again.tasks) == {"digits", *codecs}


def test_a_mixture_with_two_mask_codecs_is_refused(tmp_path: Path) -> None:
    config = compose(mixture_words(tmp_path, "published", "own"))
    with pytest.raises(UserError, match="A run has one mask codec.*seg0: .*published, seg1: .*own"):
        build_task(config, load_splits(config))


def test_masks_without_a_codec_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "a", "cat")
    words = [f"dataset.train={folder}", f"dataset.validation={folder}", "task=segmentation"]
    config = compose(["recipe=coco_json_qlora", *words, "task.mask_vae=null"])
    with pytest.raises(UserError, match=r"Masks need task\.mask_vae"):
        build_task(config, load_splits(config))


def test_labels_stand_in_the_recipe_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "a", "no", "1e-4")
    config = compose(["recipe=coco_json_qlora", f"dataset.train={folder}", f"dataset.validation={folder}"])
    splits: Splits = load_splits(config)
    text = "\n".join(["# @package _global_", OmegaConf.to_yaml(OmegaConf.structured(config))])
    launch = record_data(Launch(tmp_path, text, []), build_task(config, splits), config.evaluation)
    before, after = (OmegaConf.to_container(OmegaConf.create(one)) for one in (text, launch.recipe))
    assert isinstance(before, dict)
    before["task"]["labels"] = ["1e-4", "no"]
    assert after == before


@pytest.mark.parametrize("recipe", ["refcoco_seg_full", "refcoco_seg_qlora"])
def test_the_metrics_reading_reaches_the_task(recipe: str) -> None:
    words = [f"recipe={recipe}", "task.labels=[cat]"]
    splits = load_digits(56)
    config = compose(words)
    task = read_as_scored(build_task(config, splits, codec=False), build_metric(config))
    assert isinstance(task, ObjectsTask)
    assert task.reader.official
    config = compose([*words, "metric.reading=lenient"])
    task = read_as_scored(build_task(config, splits, codec=False), build_metric(config))
    assert isinstance(task, ObjectsTask)
    assert not task.reader.official
