"""Every command of docs/data.md trains a step and evaluates, on files as the page describes them."""

import importlib
import io
import json
import re
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from finetune.assembly.custom import instantiate
from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.train_mask_vae import save_mask_vae
from finetune.config.compose import compose, group_choices
from finetune.config.data_word import write_out
from finetune.config.words import rewrite
from tests.conftest import REPOSITORY

Command = Callable[..., tuple[int, str, str]]

PAGE = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("python -m finetune ")
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if " preview " not in line  # it trains nothing
]
FILES = dict(re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
"""The page's own examples of files, by their names."""

PICTURES = [
    *("img/1.jpg", "img/2.jpg", "photos/a.jpg", "photos/b.jpg", "birds/a.jpg", "birds/b.jpg"),
    *("cvat/images/a.jpg", "cvat/images/b.jpg", "labelme/a.jpg", "studio/a.jpg"),
    *("captions/a.jpg", "captions/b.jpg", "pets/cat/a.jpg", "pets/cat/b.jpg", "pets/dog/c.jpg"),
    *("export/a_jpg.rf.1.jpg", "export/b_jpg.rf.2.jpg"),
    *("train/a.jpg", "train/b.jpg", "VOC/JPEGImages/a.jpg"),
    *("flock/images/train/a.jpg", "flock/images/train/b.jpg", "flock/images/val/c.jpg"),
    *(f"frames/{number}.jpg" for number in range(6)),
]
ELSEWHERE = {"rsvqa_lr": "rsvqa", "rsvqa_hr": "rsvqa"}
"""Folder of a release -> the test that writes it, where that has another name."""

TINY = [
    *("model=tiny", "evaluation.limit=2"),
    *("evaluation.max_new_tokens=4", "evaluation.batch_size=2", "trainer.dataloader_num_workers=0"),
]
STEP = [
    *("trainer.max_steps=1", "trainer.global_batch_size=2", "trainer.per_device_train_batch_size=2"),
    *("peft.bits=16", "collator.max_text_length=1024"),
]


def write_page_files(folder: Path) -> None:
    """Write the page's examples, the pictures that they name, and what cannot stand on a page."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for number, name in enumerate(PICTURES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (number, 0, 0)).save(folder / name)
    for name in ("train/b", "val/c"):
        target = folder / f"flock/labels/{name}.txt"
        target.parent.mkdir(exist_ok=True)
        target.write_text(FILES["flock/labels/train/a.txt"], encoding="utf-8")
    picture = (folder / "img/1.jpg").read_bytes()
    (pair,) = re.findall(r"^A `KEY.json`:\n\n```json\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    (folder / "shards").mkdir()
    for shard in ("000", "001"):
        with tarfile.open(folder / f"shards/{shard}.tar", "w") as tar:
            for member, content in (("a.jpg", picture), ("a.json", pair.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    talk = [{"user": "what?", "assistant": "a red cup", "source": "made up"}]
    (folder / "mytalks").mkdir()
    talks = pa.table({"images": [[{"bytes": picture, "path": None}]] * 4, "texts": [talk] * 4})
    pq.write_table(talks, folder / "mytalks/train-00000-of-00001.parquet")
    boxes = {"bbox": [[2.0, 1.0, 6.0, 4.0]], "category": ["cup"]}
    texts: dict[str, list[Any]] = {"query": ["what?", "who?"], "label": ["a red cup", "a dog"]}
    tables: dict[str, dict[str, list[Any]]] = {"mydata": texts, "myboxes": {"objects": [boxes] * 2}}
    for name, columns in tables.items():
        (folder / name).mkdir()
        table = pa.table({"image": [{"bytes": picture, "path": None}] * 2, **columns})
        for split in ("train", "validation"):
            pq.write_table(table, folder / f"{name}/{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def mask_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that nothing taught, in place of the published ones, which would be downloaded."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("codec") / "mask_vae.npz"
    save_mask_vae(MaskVae().requires_grad_(False), file)
    return file


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that the page speaks of."""
    folder = tmp_path_factory.mktemp("page")
    write_page_files(folder)
    for name in {found for line in COMMANDS for found in re.findall(r"\.root=(\w+)", line)}:
        module = importlib.import_module(f"tests.data.releases.test_{ELSEWHERE.get(name, name)}")
        (folder / name).mkdir()
        module.write_release(folder / name)
    return folder


def run_in_little(command: Command, line: str, folder: Path, mask_vae: Path) -> list[dict[str, Any]]:
    """Run a line with the tiny base, check what the run left, and return its prediction rows."""
    words = [word for word in shlex.split(line) if not word.startswith("model=")]
    evaluates = words[0] == "evaluate"
    words = write_out("train", [*words, "run_name=try"]).words
    config = compose([new for word in words if word != "evaluate" for new in rewrite(word)])
    masks = [f"task.mask_vae={mask_vae}"] if getattr(config.task, "mask_vae", None) else []
    given = {word.split("=")[0] for word in words}
    extra = [
        word for word in [*TINY, *([] if evaluates else STEP), *masks] if word.split("=")[0] not in given
    ]
    code, _, err = command(*words, *extra, f"runs_dir={folder}")
    assert code == 0, err
    metrics = json.loads((folder / "try/metrics.json").read_text(encoding="utf-8"))
    scores = metrics["evaluate"][0]["scores"] if evaluates else metrics["final"]
    assert set(instantiate(config.metric).higher_is_better) <= set(scores)
    lines = (folder / "try/predictions/validation.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == scores["n"] > 0
    return [json.loads(row) for row in lines]


def is_complete(row: dict[str, Any]) -> bool:
    """Whether a row has what any metric of its kind needs."""
    whole = {"id", "prefix", "prediction", "confidence"} <= row.keys()
    objects = {"width", "height", "objects", "prediction_objects"} <= row.keys()
    return whole and (objects or bool(row.get("references")))


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_trains_a_step_and_evaluates(
    command: Command,
    workplace: Path,
    mask_vae: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    rows = run_in_little(command, line, tmp_path, mask_vae)
    assert all(map(is_complete, rows))


def test_the_pages_python_reads_rows(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    (code,) = set(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)) - set(FILES.values())
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["splits"].train) == len(names["splits"].validation) == 1


def test_the_page_has_every_dataset() -> None:
    for name in group_choices("dataset"):
        assert f"`{name}`" in PAGE or f"dataset={name}" in PAGE, name


TABLE = {
    name: [cell.strip() for cell in cells.split("|")]
    for name, cells in re.findall(r"^\| \[`(\w+)`\]\(#.*?\) \|(.*)\|$", PAGE, re.MULTILINE)
}
"""Name of a benchmark -> the other cells of its line in the table."""


def describe_preset(name: str) -> list[str]:
    """What is trained on, what is scored on, and what copy there is on the Hub."""
    if name == "vqav2":  # its files are named apart from any split
        return ["`train`", "`val`", "validation split only"]
    dataset = compose([f"dataset={name}"]).dataset
    train = f"`{dataset.train}`" if dataset.train else "-"
    validation = (
        f"`{dataset.validation}`"
        if len(dataset.validation) < 80
        else "all eight validation and test splits"
    )
    copy = "yes" if dataset.hub.train else "to evaluate only"
    return [train, validation, copy if dataset.hub.path else "no"]


@pytest.mark.parametrize("name", TABLE)
def test_the_table_says_of_a_benchmark_what_its_preset_says(name: str) -> None:
    splits, *preset, _ = TABLE[name]
    assert preset == describe_preset(name)
    release = name if name == "vqav2" else compose([f"dataset={name}"]).dataset.release
    official = importlib.import_module(f"finetune.data.releases.{release}").SPLITS
    assert set(re.findall(r"`(.*?)`", splits)) <= set(official)
    if release == name:
        own = {split for split in official if name != "refcoco" or split.startswith("refcoco_unc")}
        assert set(re.findall(r"`(.*?)`", splits)) == own


def test_the_table_has_every_benchmark() -> None:
    presets = {file.stem: file.read_text() for file in (REPOSITORY / "conf/dataset").glob("*.yaml")}
    assert set(TABLE) == {"vqav2", *(name for name, text in presets.items() if "\nrelease: " in text)}


ROWS = dict(re.findall(r"^### `(\w+)`.*?```text\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
"""Name of a benchmark -> rows of its files."""


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_benchmarks_rows_have_the_keys_of_its_files(workplace: Path, name: str) -> None:
    files = [file for file in (workplace / name).rglob("*") if file.suffix in {".json", ".csv", ".p"}]
    written = "\n".join(file.read_text(encoding="latin1") for file in files)
    keys = re.findall(r'"([A-Za-z_]+)": ', ROWS[name]) or ROWS[name].splitlines()[:1]
    assert keys
    assert [key for key in keys if key not in written] == []


REAL = {
    "chartqa": "recipe=chartqa_qlora dataset.train=test dataset.validation=test",
    "coco_detection": (
        "recipe=segment_qlora dataset=coco_detection dataset.train=val dataset.validation=val"
    ),
    "gqa": "recipe=gqa_qlora dataset.train=testdev_all dataset.validation=testdev_all",
    "scienceqa": "recipe=scienceqa_qlora dataset.train=test dataset.validation=test",
    "vqav2": (
        "recipe=vqav2_qlora dataset.validation.questions=ROOT/questions.json "
        "dataset.validation.annotations=ROOT/annotations.json dataset.validation.image_dir=ROOT "
        "dataset.train.questions=ROOT/questions.json dataset.train.annotations=ROOT/annotations.json "
        "dataset.train.image_dir=ROOT"
    ),
}
"""A release -> words that read its real sample."""


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", REAL)
def test_a_real_sample_trains_a_step_and_evaluates(
    command: Command, parity_data: Path, mask_vae: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "real"
    root.mkdir()
    if name == "vqav2":
        line = REAL[name].replace("ROOT", str(parity_data / "images/vqav2"))
    else:
        module = importlib.import_module(f"tests.data.releases.test_{name}")
        module.write_real_release(root, parity_data / "images")
        line = f"{REAL[name]} dataset.root={root}"
    rows = run_in_little(command, line, tmp_path, mask_vae)
    assert all(map(is_complete, rows))
