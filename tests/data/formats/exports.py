"""Exports of other programs, written in exactly their layouts; boxes and texts are made up, and match."""

import base64
import io
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 160, 120
CLASSES = ("cup", "dog")
COLORS = {"cup": "red", "dog": "blue"}

Box = tuple[str, int, int, int, int]
"""Class, x_min, y_min, x_max, y_max."""


class Scene(NamedTuple):
    """An image with its objects."""

    name: str
    boxes: tuple[Box, ...]


SCENES: dict[str, tuple[Scene, ...]] = {
    "train": (
        Scene("a.jpg", (("cup", 16, 12, 48, 60),)),
        Scene("b.jpg", (("dog", 80, 24, 144, 108), ("cup", 8, 60, 40, 96))),
        Scene("c.jpg", ()),
        Scene("d.jpg", (("dog", 32, 36, 96, 84),)),
    ),
    "valid": (
        Scene("e.jpg", (("cup", 64, 12, 112, 72),)),
        Scene("f.jpg", (("dog", 16, 48, 80, 108),)),
    ),
    "test": (Scene("g.jpg", (("cup", 40, 24, 88, 84), ("dog", 96, 60, 152, 114))),),
}
ALL = tuple(scene for scenes in SCENES.values() for scene in scenes)


def draw(scene: Scene, file: Path) -> None:
    """Write the image of a scene: a rectangle in the color of its class for each object."""
    shade = 200 + ord(scene.name[0]) % 50
    image = Image.new("RGB", (WIDTH, HEIGHT), (shade, shade, 255 - shade))
    for label, *corners in scene.boxes:
        ImageDraw.Draw(image).rectangle((*corners[:2], corners[2] - 1, corners[3] - 1), COLORS[label])
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=95)


def write(file: Path, content: object) -> None:
    """Write a text, or JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def write_lines(file: Path, rows: list[Any]) -> None:
    """Write JSON Lines."""
    write(file, "".join(f"{json.dumps(row)}\n" for row in rows))


def corners_of(box: Box) -> list[list[int]]:
    """Return the four corners of a box as points."""
    _, x_min, y_min, x_max, y_max = box
    return [[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max]]


def loc_text(scene: Scene) -> str:
    """Return the objects of a scene as PaliGemma writes them."""
    texts = []
    for label, x_min, y_min, x_max, y_max in scene.boxes:
        shares = (y_min / HEIGHT, x_min / WIDTH, y_max / HEIGHT, x_max / WIDTH)
        texts.append("".join(f"<loc{round(share * 1023):04d}>" for share in shares) + f" {label}")
    return " ; ".join(texts)


# Boxes and masks


def coco_content(scenes: tuple[Scene, ...], first: int, prefix: str = "", masks: bool = True) -> Any:
    """Return COCO's JSON; category ids start at `first`, and Roboflow's 0 is the group of the classes."""
    categories = [
        {"id": first + number, "name": name, "supercategory": ""} for number, name in enumerate(CLASSES)
    ]
    images: list[Any] = []
    annotations: list[Any] = []
    for number, scene in enumerate(scenes):
        images.append(
            {"id": number, "file_name": f"{prefix}{scene.name}", "height": HEIGHT, "width": WIDTH}
        )
        for box in scene.boxes:
            x, y, width, height = box[1], box[2], box[3] - box[1], box[4] - box[2]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": first + CLASSES.index(box[0]),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "segmentation": [list(chain(*corners_of(box)))] if masks else [],
                    "iscrowd": 0,
                }
            )
    return {
        "info": {},
        "licenses": [],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }


def roboflow_coco(folder: Path) -> None:
    for split, scenes in SCENES.items():
        content = coco_content(scenes, 1)
        content["licenses"] = [{"id": 1, "url": "https://creativecommons.org", "name": "CC BY 4.0"}]
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        write(folder / split / "_annotations.coco.json", content)
        for scene in scenes:
            draw(scene, folder / split / scene.name)
    write(folder / "README.dataset.txt", "things > 2024\nhttps://universe.roboflow.com\n")
    write(folder / "README.roboflow.txt", "exported via roboflow.com\n")


def yolo_lines(scene: Scene) -> str:
    lines = []
    for label, x_min, y_min, x_max, y_max in scene.boxes:
        center = ((x_min + x_max) / 2 / WIDTH, (y_min + y_max) / 2 / HEIGHT)
        sides = ((x_max - x_min) / WIDTH, (y_max - y_min) / HEIGHT)
        lines.append(f"{CLASSES.index(label)} " + " ".join(map(str, (*center, *sides))))
    return "\n".join(lines)


def roboflow_yolo(folder: Path) -> None:
    for split, scenes in SCENES.items():
        for scene in scenes:
            draw(scene, folder / split / "images" / scene.name)
            write(folder / split / "labels" / f"{Path(scene.name).stem}.txt", yolo_lines(scene))
    paths = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}
    roboflow = {"workspace": "w", "project": "p", "version": 1, "license": "CC BY 4.0"}
    write(
        folder / "data.yaml",
        yaml.safe_dump({**paths, "nc": 2, "names": list(CLASSES), "roboflow": roboflow}, sort_keys=False),
    )
    write(folder / "README.roboflow.txt", "exported via roboflow.com\n")


def voc_text(scene: Scene) -> str:
    objects = "".join(
        f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>0</difficult><occluded>0</occluded><bndbox><xmin>{x_min}</xmin><xmax>{x_max}</xmax>"
        f"<ymin>{y_min}</ymin><ymax>{y_max}</ymax></bndbox></object>\n"
        for label, x_min, y_min, x_max, y_max in scene.boxes
    )
    return (
        f"<annotation>\n<folder></folder><filename>{scene.name}</filename><path>{scene.name}</path>"
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def roboflow_voc(folder: Path) -> None:
    for split, scenes in SCENES.items():
        for scene in scenes:
            draw(scene, folder / split / scene.name)
            write(folder / split / f"{Path(scene.name).stem}.xml", voc_text(scene))


def label_studio_coco(folder: Path) -> None:
    for scene in ALL:
        draw(scene, folder / "images" / f"1a2b3c4d-{scene.name}")
    content = coco_content(ALL, 0, prefix="images/1a2b3c4d-")
    content["info"] = {"year": 2024, "contributor": "Label Studio", "url": ""}
    keys = ("images", "categories", "annotations", "info")
    write(folder / "result.json", {key: content[key] for key in keys})


def label_studio_yolo(folder: Path) -> None:
    for scene in ALL:
        draw(scene, folder / "images" / f"1a2b3c4d-{scene.name}")
        write(folder / "labels" / f"1a2b3c4d-{Path(scene.name).stem}.txt", yolo_lines(scene))
    write(folder / "classes.txt", "\n".join(CLASSES))
    notes = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    write(folder / "notes.json", {"categories": notes, "info": {"contributor": "Label Studio"}})


def percent_box(box: Box) -> dict[str, Any]:
    label, x_min, y_min, x_max, y_max = box
    return {
        "x": 100 * x_min / WIDTH,
        "y": 100 * y_min / HEIGHT,
        "width": 100 * (x_max - x_min) / WIDTH,
        "height": 100 * (y_max - y_min) / HEIGHT,
        "rotation": 0,
        "rectanglelabels": [label],
    }


def percent_polygon(box: Box) -> dict[str, Any]:
    points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in corners_of(box)]
    return {"points": points, "closed": True, "polygonlabels": [box[0]]}


def encode_brush(mask: np.ndarray) -> list[int]:
    """Write a mask as Label Studio does: RGBA bytes in runs of at most 2 ** 16 values."""
    values = np.repeat(mask.astype(np.uint8) * 255, 4)
    bits = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    ends = [*(np.flatnonzero(np.diff(values)) + 1), len(values)]
    start = 0
    for end in ends:
        while start < end:
            count = min(end - start, 1 << 16)
            bits += f"1{3:02b}{count - 1:016b}{values[start]:08b}"
            start += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def brush(box: Box) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[box[2] : box[4], box[1] : box[3]] = True
    return {"format": "rle", "rle": encode_brush(mask.ravel()), "brushlabels": [box[0]]}


def label_studio_task(
    number: int, scene: Scene, values: list[dict[str, Any]], **data: Any
) -> dict[str, Any]:
    kinds = {"rectanglelabels", "polygonlabels", "brushlabels"}
    results = [
        {
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "image_rotation": 0,
            "value": value,
            "id": f"r{number}_{index}",
            "from_name": "label",
            "to_name": "image",
            "type": next(iter(kinds & value.keys())),
            "origin": "manual",
        }
        for index, value in enumerate(values)
    ]
    annotation = {
        "id": number,
        "completed_by": 1,
        "result": results,
        "was_cancelled": False,
        "ground_truth": False,
        "lead_time": 3.2,
        "prediction": {},
        "result_count": len(results),
        "task": number,
        "project": 1,
    }
    return {
        "id": number,
        "annotations": [annotation],
        "file_upload": f"1a2b3c4d-{scene.name}",
        "drafts": [],
        "predictions": [],
        "data": {"image": f"/data/upload/1/1a2b3c4d-{scene.name}", **data},
        "meta": {},
        "created_at": "2024-01-02T10:00:00Z",
        "updated_at": "2024-01-02T10:01:00Z",
        "inner_id": number,
        "total_annotations": 1,
        "cancelled_annotations": 0,
        "total_predictions": 0,
        "comment_count": 0,
        "project": 1,
    }


def label_studio_native(folder: Path, value: Callable[[Box], dict[str, Any]] = percent_box) -> None:
    tasks = []
    for number, scene in enumerate(ALL, 1):
        draw(scene, folder / "images" / scene.name)
        tasks.append(label_studio_task(number, scene, [value(box) for box in scene.boxes]))
    write(folder / "project-1-at-2024-01-02-10-00-1a2b3c4d.json", tasks)


def label_studio_polygons(folder: Path) -> None:
    label_studio_native(folder, percent_polygon)


def label_studio_brushes(folder: Path) -> None:
    label_studio_native(folder, brush)


def label_studio_minimal(folder: Path) -> None:
    rows = []
    for number, scene in enumerate(ALL, 1):
        draw(scene, folder / scene.name)
        sides = {"original_width": WIDTH, "original_height": HEIGHT}
        labels = [{**percent_box(box), **sides} for box in scene.boxes]
        row = {"image": f"/data/upload/1/1a2b3c4d-{scene.name}", "id": number}
        row |= {"label": labels} if labels else {}
        rows.append({**row, **_ABOUT, "annotation_id": number})
    write(folder / "project-1.json", rows)


_ABOUT = {
    "annotator": 1,
    "created_at": "2024-01-02T10:00:00Z",
    "updated_at": "2024-01-02T10:01:00Z",
    "lead_time": 3.2,
}


def label_studio_captions(folder: Path) -> None:
    """JSON-MIN of a project with a TextArea `caption`."""
    rows = []
    for number, scene in enumerate(ALL, 1):
        draw(scene, folder / scene.name)
        row = {"image": f"/data/upload/1/1a2b3c4d-{scene.name}", "id": number}
        rows.append({**row, "caption": caption(scene), **_ABOUT, "annotation_id": number})
    write(folder / "project-1.json", rows)


def label_studio_choices(folder: Path) -> None:
    """The full JSON of a project with Choices `answer` about the task's `question`."""
    tasks = []
    for number, scene in enumerate(ALL, 1):
        draw(scene, folder / scene.name)
        task = label_studio_task(number, scene, [], question=QUESTION)
        task["annotations"][0]["result"] = [
            {
                "value": {"choices": [answer(scene)]},
                "id": f"c{number}",
                "from_name": "answer",
                "to_name": "image",
                "type": "choices",
                "origin": "manual",
            }
        ]
        tasks.append(task)
    write(folder / "project-1.json", tasks)


def cvat_images(folder: Path, element: Callable[[Box], str] | None = None) -> None:
    element = element or cvat_box
    images = []
    for number, scene in enumerate(ALL):
        draw(scene, folder / "images" / scene.name)
        shapes = "".join(map(element, scene.boxes))
        images.append(
            f'  <image id="{number}" name="{scene.name}" width="{WIDTH}" height="{HEIGHT}">\n{shapes}'
            "  </image>\n"
        )
    labels = "".join(
        f"<label><name>{name}</name><color>#33ddff</color><type>any</type><attributes></attributes></label>"
        for name in CLASSES
    )
    write(
        folder / "annotations.xml",
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><task>'
        f"<id>7</id><name>things</name><mode>annotation</mode><labels>{labels}</labels></task></meta>\n"
        f"{''.join(images)}</annotations>\n",
    )


def cvat_box(box: Box) -> str:
    label, x_min, y_min, x_max, y_max = box
    return (
        f'    <box label="{label}" source="manual" occluded="0" xtl="{x_min}.00" ytl="{y_min}.00" '
        f'xbr="{x_max}.00" ybr="{y_max}.00" z_order="0">\n      <attribute name="color">red</attribute>\n'
        "    </box>\n"
    )


def cvat_polygon(box: Box) -> str:
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners_of(box))
    return (
        f'    <polygon label="{box[0]}" source="manual" occluded="0" points="{points}" z_order="0">\n'
        "    </polygon>\n"
    )


def cvat_mask(box: Box) -> str:
    label, x_min, y_min, x_max, y_max = box
    width, height = x_max - x_min, y_max - y_min
    return (
        f'    <mask label="{label}" source="semi-auto" occluded="0" rle="0, {width * height}" '
        f'left="{x_min}" top="{y_min}" width="{width}" height="{height}" z_order="0">\n    </mask>\n'
    )


def cvat_polygons(folder: Path) -> None:
    cvat_images(folder, cvat_polygon)


def cvat_masks(folder: Path) -> None:
    cvat_images(folder, cvat_mask)


def cvat_coco(folder: Path) -> None:
    for scene in ALL:
        draw(scene, folder / "images" / "default" / scene.name)
    content = coco_content(ALL, 1)
    keys = ("licenses", "info", "categories", "images", "annotations")
    write(folder / "annotations" / "instances_default.json", {key: content[key] for key in keys})


def cvat_yolo(folder: Path) -> None:
    """YOLO 1.1."""
    write(folder / "obj.names", "".join(f"{name}\n" for name in CLASSES))
    write(
        folder / "obj.data",
        "classes = 2\nnames = data/obj.names\ntrain = data/train.txt\nbackup = backup/\n",
    )
    for scene in ALL:
        draw(scene, folder / "obj_train_data" / scene.name)
        write(folder / "obj_train_data" / f"{Path(scene.name).stem}.txt", yolo_lines(scene))
    write(folder / "train.txt", "".join(f"data/obj_train_data/{scene.name}\n" for scene in ALL))


def cvat_ultralytics(folder: Path) -> None:
    """Ultralytics YOLO Detection."""
    for scene in ALL:
        draw(scene, folder / "images" / "train" / scene.name)
        write(folder / "labels" / "train" / f"{Path(scene.name).stem}.txt", yolo_lines(scene))
    write(folder / "data.yaml", "names:\n  0: cup\n  1: dog\npath: .\ntrain: train.txt\n")
    write(folder / "train.txt", "".join(f"data/images/train/{scene.name}\n" for scene in ALL))


def cvat_voc(folder: Path) -> None:
    for scene in ALL:
        draw(scene, folder / "JPEGImages" / scene.name)
        write(folder / "Annotations" / f"{Path(scene.name).stem}.xml", voc_text(scene))
    names = "".join(f"{Path(scene.name).stem}\n" for scene in ALL)
    write(folder / "ImageSets" / "Main" / "default.txt", names)
    write(
        folder / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncup:250,50,83::\ndog:1,2,3::\n",
    )


def labelme_shape(box: Box, kind: str) -> dict[str, Any]:
    label, x_min, y_min, x_max, y_max = box
    rest: dict[str, Any] = {
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }
    if kind == "polygon":
        return {"label": label, "points": corners_of(box), **rest}
    if kind == "mask":
        png = io.BytesIO()
        Image.fromarray(np.full((y_max - y_min, x_max - x_min), 255, np.uint8)).save(png, "PNG")
        rest["mask"] = base64.b64encode(png.getvalue()).decode()
    return {"label": label, "points": [[x_min, y_min], [x_max, y_max]], **rest}


def labelme(folder: Path, kind: str = "rectangle") -> None:
    for number, scene in enumerate(ALL):
        draw(scene, folder / scene.name)
        data = base64.b64encode((folder / scene.name).read_bytes()).decode() if number % 2 else None
        write(
            folder / f"{Path(scene.name).stem}.json",
            {
                "version": "5.5.0",
                "flags": {},
                "shapes": [labelme_shape(box, kind) for box in scene.boxes],
                "imagePath": scene.name,
                "imageData": data,
                "imageHeight": HEIGHT,
                "imageWidth": WIDTH,
            },
        )


def labelme_polygons(folder: Path) -> None:
    labelme(folder, "polygon")


def labelme_masks(folder: Path) -> None:
    labelme(folder, "mask")


def labelme_apart(folder: Path) -> None:
    """With `--output`: the JSON files are in another folder than the images, and name them with `\\`."""
    labelme(folder / "images")
    for file in (folder / "images").glob("*.json"):
        content = json.loads(file.read_text())
        content["imagePath"] = "..\\images\\" + content["imagePath"]
        write(folder / "annotations" / file.name, content)
        file.unlink()


# Texts

QUESTION = "which animal or thing is in the image?"


def answer(scene: Scene) -> str:
    return " and ".join(label for label, *_ in scene.boxes) or "nothing"


def caption(scene: Scene) -> str:
    return f"an image of {answer(scene)}"


def roboflow_paligemma(folder: Path) -> None:
    """All images and `_annotations.SPLIT.jsonl` in one folder."""
    for split, scenes in SCENES.items():
        rows = []
        for scene in scenes:
            draw(scene, folder / "dataset" / scene.name)
            rows.append({"image": scene.name, "prefix": "detect cup ; dog", "suffix": loc_text(scene)})
        write_lines(folder / "dataset" / f"_annotations.{split}.jsonl", rows)


def maestro(folder: Path) -> None:
    for split, scenes in SCENES.items():
        rows = []
        for scene in scenes:
            draw(scene, folder / split / scene.name)
            rows.append({"image": scene.name, "prefix": QUESTION, "suffix": answer(scene)})
        write_lines(folder / split / "annotations.jsonl", rows)


def llava(folder: Path) -> None:
    """A mixed LLaVA file: several turns, ids that repeat, and rows without an image."""
    rows: list[dict[str, Any]] = []
    for number, scene in enumerate(ALL):
        draw(scene, folder / "images" / scene.name)
        turns = [
            {"from": "human", "value": f"<image>\n{QUESTION}"},
            {"from": "gpt", "value": answer(scene)},
            {"from": "human", "value": "Describe it."},
            {"from": "gpt", "value": caption(scene)},
        ]
        rows.append({"id": f"{number // 2:012d}", "image": scene.name, "conversations": turns})
    talk = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]
    rows.insert(1, {"id": "wgByO4Y_0", "model": "", "conversations": talk})
    write(folder / "llava_v1_5_mix.json", rows)


def swift_grounding(folder: Path) -> None:
    """ms-swift's JSON Lines with `objects`, and absolute paths, as its documentation prefers."""
    rows = []
    for scene in ALL:
        draw(scene, folder / "images" / scene.name)
        mark = "<ref-object><bbox>" * len(scene.boxes) or "nothing"
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": "<image>detect cup ; dog"},
                    {"role": "assistant", "content": mark},
                ],
                "images": [str((folder / "images" / scene.name).absolute())],
                "objects": {
                    "ref": [label for label, *_ in scene.boxes],
                    "bbox": [list(corners) for _, *corners in scene.boxes],
                },
            }
        )
    write_lines(folder / "train.jsonl", rows)


def swift_query(folder: Path) -> None:
    rows = []
    for scene in ALL:
        draw(scene, folder / scene.name)
        rows.append({"query": f"<image>{QUESTION}", "response": answer(scene), "images": [scene.name]})
    write_lines(folder / "train.jsonl", rows)


def llama_factory(folder: Path) -> None:
    """A folder `data` with dataset_info.json; rows differ in their number of images."""
    rows = []
    for number, scene in enumerate(ALL):
        file = folder / "mllm_demo_data" / scene.name
        draw(scene, file)
        names = [f"mllm_demo_data/{scene.name}"] * (1 + number % 2)
        turns = [
            {"role": "user", "content": "<image>" * len(names) + QUESTION},
            {"role": "assistant", "content": answer(scene)},
        ]
        rows.append({"messages": turns, "images": names})
    write(folder / "mllm_demo.json", rows)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {
        "file_name": "mllm_demo.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": tags,
    }
    write(folder / "dataset_info.json", {"mllm_demo": info})


def llama_factory_alpaca(folder: Path) -> None:
    rows = []
    for scene in ALL:
        draw(scene, folder / "images" / scene.name)
        rows.append(
            {
                "instruction": f"<image>{QUESTION}",
                "input": "",
                "output": answer(scene),
                "images": [f"images/{scene.name}"],
            }
        )
    write(folder / "alpaca_mllm.json", rows)


def trl_chat(folder: Path) -> None:
    rows = []
    for scene in ALL:
        draw(scene, folder / scene.name)
        user = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        turns = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": [{"type": "text", "text": answer(scene)}]},
        ]
        rows.append({"messages": turns, "images": [scene.name]})
    write_lines(folder / "train.jsonl", rows)


def trl_completion(folder: Path) -> None:
    """TRL's prompt and completion, as turns."""
    rows = []
    for scene in ALL:
        draw(scene, folder / scene.name)
        asked = [{"role": "user", "content": QUESTION}]
        said = [{"role": "assistant", "content": answer(scene)}]
        rows.append({"images": [scene.name], "prompt": asked, "completion": said})
    write_lines(folder / "train.jsonl", rows)


def openai_chat(folder: Path) -> None:
    """Messages with `image_url` parts."""
    rows = []
    for scene in ALL:
        draw(scene, folder / scene.name)
        user = [{"type": "image_url", "image_url": {"url": scene.name}}, {"type": "text", "text": QUESTION}]
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer(scene)}]
        rows.append({"messages": turns})
    write_lines(folder / "train.jsonl", rows)


def json_list(folder: Path) -> None:
    rows = []
    for scene in ALL:
        draw(scene, folder / "images" / scene.name)
        rows.append({"image": f"images/{scene.name}", "question": QUESTION, "answer": len(scene.boxes)})
    write(folder / "data.json", rows)


def excel_csv(folder: Path) -> None:
    """What Excel writes in Europe: a mark, semicolons, `\\` in paths, and rows of empty cells."""
    for scene in ALL:
        draw(scene, folder / "photos" / scene.name)
    lines = [f"photos\\{scene.name};{QUESTION};{answer(scene)}" for scene in ALL]
    text = "\r\n".join(["Image;Question;Answer", *lines, ";;", " ;;", ""])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.csv").write_bytes(text.encode("utf-8-sig"))


def class_folders(folder: Path) -> None:
    """A folder of images for each class, in a folder for each split."""
    for split, scenes in SCENES.items():
        for scene in scenes:
            draw(scene, folder / split / "with things" / scene.name)
            draw(scene, folder / split / "again" / scene.name)


def image_folder(folder: Path) -> None:
    """The Hub's image folder with objects."""
    for split in ("train", "valid"):
        rows = []
        for scene in SCENES[split]:
            draw(scene, folder / split / scene.name)
            boxes = [[x, y, right - x, low - y] for _, x, y, right, low in scene.boxes]
            labels = [label for label, *_ in scene.boxes]
            rows.append({"file_name": scene.name, "objects": {"bbox": boxes, "categories": labels}})
        write_lines(folder / split / "metadata.jsonl", rows)


class Export(NamedTuple):
    """An export, and how it is read."""

    make: Callable[[Path], None]
    dataset: str
    kind: str
    """`boxes`, `masks` (both), `pairs` (prefix and suffix), `classes` or `columns`."""
    splits: tuple[str, ...] = ("train",)


_THREE = ("train", "validation", "test")

EXPORTS = {
    "roboflow_coco": Export(roboflow_coco, "coco", "masks", _THREE),
    "roboflow_yolo": Export(roboflow_yolo, "yolo", "boxes", _THREE),
    "roboflow_voc": Export(roboflow_voc, "voc", "boxes", _THREE),
    "label_studio_coco": Export(label_studio_coco, "coco", "masks"),
    "label_studio_yolo": Export(label_studio_yolo, "yolo", "boxes"),
    "label_studio_native": Export(label_studio_native, "label_studio", "boxes"),
    "label_studio_polygons": Export(label_studio_polygons, "label_studio", "masks"),
    "label_studio_brushes": Export(label_studio_brushes, "label_studio", "masks"),
    "label_studio_minimal": Export(label_studio_minimal, "label_studio", "boxes"),
    "label_studio_captions": Export(label_studio_captions, "label_studio", "columns"),
    "label_studio_choices": Export(label_studio_choices, "label_studio", "columns"),
    "cvat_images": Export(cvat_images, "cvat", "boxes"),
    "cvat_polygons": Export(cvat_polygons, "cvat", "masks"),
    "cvat_masks": Export(cvat_masks, "cvat", "masks"),
    "cvat_coco": Export(cvat_coco, "coco", "masks"),
    "cvat_yolo": Export(cvat_yolo, "yolo", "boxes"),
    "cvat_ultralytics": Export(cvat_ultralytics, "yolo", "boxes"),
    "cvat_voc": Export(cvat_voc, "voc", "boxes"),
    "labelme": Export(labelme, "labelme", "boxes"),
    "labelme_apart": Export(labelme_apart, "labelme", "boxes"),
    "labelme_polygons": Export(labelme_polygons, "labelme", "masks"),
    "labelme_masks": Export(labelme_masks, "labelme", "masks"),
    "roboflow_paligemma": Export(roboflow_paligemma, "jsonl", "pairs", _THREE),
    "maestro": Export(maestro, "jsonl", "pairs", _THREE),
    "llava": Export(llava, "conversations", "pairs"),
    "swift_grounding": Export(swift_grounding, "conversations", "pairs"),
    "swift_query": Export(swift_query, "conversations", "pairs"),
    "llama_factory": Export(llama_factory, "conversations", "pairs"),
    "llama_factory_alpaca": Export(llama_factory_alpaca, "conversations", "pairs"),
    "trl_chat": Export(trl_chat, "conversations", "pairs"),
    "trl_completion": Export(trl_completion, "conversations", "pairs"),
    "openai_chat": Export(openai_chat, "conversations", "pairs"),
    "json_list": Export(json_list, "table", "columns"),
    "excel_csv": Export(excel_csv, "table", "columns"),
    "image_folder": Export(image_folder, "image_folder", "boxes", _THREE[:2]),
    "class_folders": Export(class_folders, "image_folder", "classes", _THREE),
}
"""Every export by its name."""
