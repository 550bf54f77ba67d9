import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.codecs.coco_mask import encode_rle
from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.rle import decode_rle
from finetune.codecs.train_mask_vae import save_mask_vae
from finetune.errors import UserError
from finetune.tasks.objects import ObjectOrder, ObjectsOptions, PromptClasses
from finetune.tasks.task import Answer


def thing(label: str, box: tuple[float, ...], iscrowd: int = 0, mask: Any = None) -> dict[str, Any]:
    return {"label": label, "box_xyxy": list(box), "iscrowd": iscrowd, "area": None, "mask_rle": mask}


ROW: dict[str, Any] = {
    "id": "1",
    "width": 1023,
    "height": 1023,
    "objects": [
        thing("dog", (700, 10, 800, 20)),
        thing("cat", (5, 6, 7, 8)),
        thing("cat", (300, 310, 320, 330)),
        thing("crowd", (0, 0, 9, 9), iscrowd=1),
    ],
}
DOG, CAT, CAT2 = (
    "<loc0010><loc0700><loc0020><loc0800> dog",
    "<loc0006><loc0005><loc0008><loc0007> cat",
    "<loc0310><loc0300><loc0330><loc0320> cat",
)
LABELS = ["cat", "dog", "ewe"]


def test_all_classes_are_asked_for_and_objects_come_as_given_without_crowds() -> None:
    text = ObjectsOptions("detect {labels}", LABELS).build().build_text(ROW)
    assert text == ("detect cat ; dog ; ewe", (f"{DOG} ; {CAT} ; {CAT2}",))


def test_present_classes_are_those_of_the_picture_in_the_order_of_the_list() -> None:
    assert (
        ObjectsOptions("detect {labels}", LABELS, PromptClasses.present).build().build_text(ROW).prefix
        == "detect cat ; dog"
    )


def test_one_class_is_asked_for_and_only_its_objects_are_written_and_scored() -> None:
    task = ObjectsOptions("detect {labels}", LABELS, PromptClasses.one).build()
    row = {**ROW, "label": "cat"}
    assert task.build_text(row) == ("detect cat", (f"{CAT} ; {CAT2}",))
    assert [one["label"] for one in task.build_target(row)["objects"]] == ["cat", "cat"]
    assert task.build_text({**ROW, "label": "ewe"}) == ("detect ewe", ("",))


def test_the_order_is_by_the_left_edge_or_drawn_anew() -> None:
    task = ObjectsOptions("x", LABELS, order=ObjectOrder.left_to_right).build()
    assert task.build_text(ROW).suffixes == (f"{CAT} ; {CAT2} ; {DOG}",)
    task = ObjectsOptions("x", LABELS, order=ObjectOrder.random).build()
    drawn = {task.build_text(ROW, random.Random(seed)).suffixes for seed in range(40)}
    assert len(drawn) == 6
    assert task.build_text(ROW).suffixes == (f"{DOG} ; {CAT} ; {CAT2}",)


def test_a_referring_answer_carries_no_class_and_its_prompt_a_column() -> None:
    task = ObjectsOptions("{expression}", write_label=False).build()
    row = {**ROW, "expression": "the left cat", "objects": ROW["objects"][1:2]}
    assert task.build_text(row) == ("the left cat", (CAT.removesuffix(" cat"),))


def test_a_class_outside_the_list_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"class `dog` is not in task.labels. Did you mean `dogs`\?"):
        ObjectsOptions("x", ["cat", "dogs"]).build().build_text(ROW)


def test_the_target_is_a_prediction_rows_and_keeps_crowds() -> None:
    target = ObjectsOptions("x", LABELS).build().build_target(ROW)
    assert (target["width"], target["height"]) == (1023, 1023)
    assert target["objects"][3] == {"label": "crowd", "box_xyxy": [0, 0, 9, 9], "iscrowd": 1}


def test_an_answer_becomes_objects_with_the_mean_probability_of_their_tokens() -> None:
    text = f"{DOG} ; {CAT}"
    ends = [9, 18, 27, 36, len(DOG), len(DOG) + 3]
    ends += [len(DOG) + 3 + n for n in (9, 18, 27, 36, 40)]
    probabilities = [0.5, 0.5, 0.5, 0.5, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    answer = Answer(text, 0.6, tuple(ends), tuple(probabilities))
    found = ObjectsOptions("x", LABELS).build().read_answer(answer, {"width": 1023, "height": 1023})
    assert found["prediction_objects"] == [
        {"label": "dog", "box_xyxy": [700.0, 10.0, 800.0, 20.0], "score": 0.6},
        {"label": "cat", "box_xyxy": [5.0, 6.0, 7.0, 8.0], "score": 0.8},
    ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("vae") / "vae.npz"
    save_mask_vae(MaskVae(), Path(path))
    return str(path)


def test_a_mask_is_written_as_sixteen_codes_and_measured_as_many(weights: str) -> None:
    mask = np.zeros((64, 64), bool)
    mask[10:30, 20:40] = True
    row = {
        "id": "1",
        "width": 64,
        "height": 64,
        "objects": [thing("cat", (20, 10, 40, 30), mask=encode_rle(mask))],
    }
    task = ObjectsOptions("segment {labels}", LABELS, masks=True, mask_vae=weights).build()
    text, measured = task.build_text(row), task.measure_text(row)
    assert text.suffixes[0].count("<seg") == measured.suffixes[0].count("<seg") == 16
    assert len(text.suffixes[0]) == len(measured.suffixes[0])
    found = task.read_answer(Answer(text.suffixes[0], 1.0), row)["prediction_objects"]
    assert decode_rle(found[0]["mask_rle"], (64, 64)).shape == (64, 64)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        pytest.param(
            np.pad(np.ones((9, 9), bool), ((40, 15), (40, 15))), "mask 0 to have pixels", id="beside"
        ),
        pytest.param(np.ones((60, 60), bool), r"run lengths of size \(64, 64\)", id="of another size"),
    ],
)
def test_a_mask_that_cannot_be_written_is_found_without_the_weights(mask: Any, message: str) -> None:
    objects = [thing("cat", (20, 10, 40, 30), mask=encode_rle(mask))]
    row = {"id": "1", "width": 64, "height": 64, "objects": objects}
    with pytest.raises(UserError, match=f"Row `1`: .*{message}"):
        ObjectsOptions("segment {labels}", LABELS, masks=True).build().measure_text(row)


def test_an_object_without_a_mask_cannot_be_learnt_as_one(weights: str) -> None:
    with pytest.raises(UserError, match="object `dog` has no mask to learn from"):
        ObjectsOptions("x", LABELS, masks=True, mask_vae=weights).build().build_text(ROW)
    with pytest.raises(UserError, match=r"Masks need task\.mask_vae"):
        ObjectsOptions("x", LABELS, masks=True).build().build_text(
            {**ROW, "objects": [thing("cat", (0, 0, 9, 9), mask=encode_rle(np.ones((1023, 1023), bool)))]}
        )


def test_rows_without_boxes_are_refused_at_once() -> None:
    with pytest.raises(UserError, match="column `objects`"):
        ObjectsOptions("x").build().check_columns(["id", "image", "width", "height"])
    with pytest.raises(UserError, match=r"column `label` \(task.classes=one"):
        ObjectsOptions("x", classes=PromptClasses.one).build().check_columns(
            ["id", "image", "width", "height", "objects"]
        )


def test_answers_are_read_officially_where_the_metric_does(tmp_path: Path) -> None:
    save_mask_vae(MaskVae(), tmp_path / "vae.npz")
    task = ObjectsOptions(
        "{expression}", masks=True, mask_vae=str(tmp_path / "vae.npz"), write_label=False
    ).build()
    text = "<loc0000><loc0000><loc1023><loc1023>" + "<seg005>" * 16
    target = {"width": 30, "height": 20}
    (expected,) = task.read_answer(Answer(text, 1.0), target)["prediction_objects"]
    official = replace(task, reader=replace(task.reader, official=True))
    for behind in ("<seg001>", f" ; {text}"):
        found = official.read_answer(Answer(text + behind, 1.0), target)["prediction_objects"]
        assert found == [expected]
        assert task.read_answer(Answer(text + behind, 1.0), target)["prediction_objects"] != [expected]
    assert official.read_answer(Answer(f" {text}", 1.0), target) == {"prediction_objects": []}


def test_present_classes_are_asked_for_and_absent_ones_as_many_as_wanted() -> None:
    options = ObjectsOptions(labels=["cat", "cow", "dog", "ewe", "fox"], negatives=1)
    asked = options.ask_classes(ROW, training=True)
    assert len(asked) == 3
    assert {"cat", "dog"} < set(asked)
    assert options.ask_classes(ROW, training=True) == asked == sorted(asked)
    assert replace(options, negatives=0).ask_classes(ROW, training=True) == ["cat", "dog"]
    assert options.ask_classes(ROW, training=False) == options.labels
