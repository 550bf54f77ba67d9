import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import UserError
from finetune.model.load import TINY_BASE
from finetune.model.options import ModelConfig
from finetune.model.origin import Origin, find_origin, fingerprint_weights, pin_revision, read_origin

if TYPE_CHECKING:
    from tests.hub.client import ConnectedHub

FILES = {file.name: file.read_bytes() for file in TINY_BASE.iterdir() if file.is_file()}
TINY = fingerprint_weights(TINY_BASE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_BASE, tmp_path / "copy"))


def test_a_fingerprint_does_not_depend_on_place_metadata_or_the_division_into_files(copy: Path) -> None:
    assert TINY is not None
    assert TINY.startswith("sha256:")
    assert fingerprint_weights(copy) == TINY
    weights = load_file(copy / "model.safetensors")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt", "from": "elsewhere"})
    assert fingerprint_weights(copy) == TINY

    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, chosen in parts.items():
        save_file({name: weights[name] for name in chosen}, copy / file)
    index = {name: file for file, chosen in parts.items() for name in chosen}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (copy / "model.safetensors").unlink()
    assert fingerprint_weights(copy) == TINY
    (copy / "b.safetensors").unlink()
    assert fingerprint_weights(copy) is None


@pytest.mark.parametrize("part", ["beginning", "middle", "end", "format", "name"])
def test_other_weights_have_another_fingerprint(copy: Path, part: str) -> None:
    weights = load_file(copy / "model.safetensors")
    name = max(weights, key=lambda key: weights[key].numel())
    flat = weights[name].view(-1)
    if part == "format":
        weights[name] = weights[name].to(torch.float16)
    elif part == "name":
        weights["other"] = weights.pop(name)
    else:
        flat[{"beginning": 0, "middle": len(flat) // 2, "end": -1}[part]] += 1
    save_file(weights, copy / "model.safetensors")
    assert fingerprint_weights(copy) not in {TINY, None}


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, (8).to_bytes(8, "little") + b"no json!"])
def test_a_damaged_file_has_no_fingerprint(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    assert fingerprint_weights(copy) is None


def test_a_base_is_named_by_its_hub_id_and_else_by_its_folder(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_origin(ModelConfig("tiny")) == Origin("tiny", fingerprint=TINY)
    assert find_origin(ModelConfig("tiny")).name == "tiny"
    assert find_origin(ModelConfig("tiny", hub_id="ann/tiny")).name == "ann/tiny"
    assert find_origin(ModelConfig(str(copy))) == Origin(str(copy), fingerprint=TINY)
    monkeypatch.chdir(copy.parent)
    assert find_origin(ModelConfig("copy")).name == str(copy)
    commit = "0" * 40
    stated = find_origin(ModelConfig("copy", revision=commit, hub_id="ann/tiny"))
    assert (stated.name, stated.commit, stated.fingerprint) == ("ann/tiny", commit, TINY)
    unknown = find_origin(ModelConfig("nobody/has-this", revision="main"))
    assert unknown == Origin("nobody/has-this", "main", "nobody/has-this")


def test_a_base_of_the_hub_is_known_with_its_commit_also_by_its_folder_in_the_cache(
    hub: "ConnectedHub",
) -> None:
    repository = hub.add("ann/tiny", FILES)
    first = repository.branches["main"]
    pinned = pin_revision(ModelConfig("ann/tiny"))
    assert pinned.revision == first
    assert find_origin(pinned) == Origin("ann/tiny", first, "ann/tiny", first, None)
    hub.add("ann/tiny", {"README.md": b"new"})
    assert pin_revision(ModelConfig("ann/tiny")).revision == repository.branches["main"] != first
    recorded = Origin("ann/tiny", None, "ann/tiny", first)
    assert pin_revision(ModelConfig("ann/tiny"), recorded).revision == first
    assert pin_revision(ModelConfig("ann/tiny", "main"), recorded).revision == repository.branches["main"]

    from huggingface_hub import snapshot_download

    folder = snapshot_download("ann/tiny", revision=first)
    assert find_origin(pinned) == Origin("ann/tiny", first, "ann/tiny", first, TINY)
    assert find_origin(ModelConfig(folder)) == Origin(folder, None, "ann/tiny", first, TINY)


def test_a_hub_id_is_for_a_folder(hub: "ConnectedHub", copy: Path) -> None:
    assert pin_revision(ModelConfig(str(copy), hub_id="ann/tiny")) == ModelConfig(
        str(copy), hub_id="ann/tiny"
    )
    with pytest.raises(UserError, match="but there is no folder `ann/copy`"):
        pin_revision(ModelConfig("ann/copy", hub_id="ann/tiny"))
    assert not hub.log


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"base": null}',
        '{"base": {"path": 3}}',
        '{"base": {"commit": "abc"}}',
        '{"base": []}',
    ],
)
def test_a_file_that_records_no_base_is_not_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "environment.json").write_text(content)
    assert read_origin(tmp_path / "environment.json") is None
    assert read_origin(tmp_path / "missing.json") is None


def test_a_recorded_base_comes_back(tmp_path: Path) -> None:
    origin = Origin("ann/tiny", None, "ann/tiny", "0" * 40, TINY)
    (tmp_path / "environment.json").write_text(json.dumps({"base": {**vars(origin), "of later": 1}}))
    assert read_origin(tmp_path / "environment.json") == origin
