import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.model.load import TINY_BASE, load_config
from finetune.model.options import AdapterBase, ModelConfig, PeftConfig, PeftMethod
from finetune.model.origin import Origin, find_origin, fingerprint_weights
from finetune.model.provenance import Provenance, check_base, describe_base, is_same, read_provenance
from finetune.model.towers import Tower

TINY = fingerprint_weights(TINY_BASE)
PT, MIX = "google/paligemma-3b-pt-224", "google/paligemma-3b-mix-224"
A, B = "a" * 40, "b" * 40
HERE = Provenance(Origin("tiny", fingerprint=TINY), 56, "peft.bits=16")


@pytest.mark.parametrize(
    ("trained", "here", "same"),
    [
        pytest.param(Origin(PT, hub_id=PT, commit=A), Origin(PT, hub_id=PT, commit=A), True, id="commit"),
        pytest.param(
            Origin(PT, hub_id=PT, commit=A), Origin(PT, hub_id=PT, commit=B), False, id="other-commit"
        ),
        pytest.param(Origin(PT, hub_id=PT), Origin(PT, hub_id=PT, commit=B), True, id="hub-id"),
        pytest.param(Origin(PT, hub_id=PT), Origin(PT.upper(), hub_id=PT.upper()), True, id="case"),
        pytest.param(Origin(PT, hub_id=PT), Origin(MIX, hub_id=MIX), False, id="other-hub-id"),
        pytest.param(
            Origin(PT, hub_id=PT, commit=A, fingerprint="1"), Origin("/x", fingerprint="1"), True, id="copy"
        ),
        pytest.param(
            Origin(PT, hub_id=PT, commit=A, fingerprint="1"),
            Origin(MIX, hub_id=MIX, commit=B, fingerprint="1"),
            True,
            id="mirror",
        ),
        pytest.param(
            Origin("/x/base", fingerprint="1"), Origin("/x/base", fingerprint="2"), False, id="replaced"
        ),
        pytest.param(
            Origin(PT, hub_id=PT, commit=A, fingerprint="1"),
            Origin(PT, hub_id=PT, commit=B),
            None,
            id="not-yet-downloaded",
        ),
        pytest.param(
            Origin("/gone/" + PT), Origin(PT, hub_id=PT, commit=B), True, id="folder-of-that-name"
        ),
        pytest.param(Origin("/gone/base"), Origin(PT, hub_id=PT), None, id="folder-that-is-gone"),
        pytest.param(Origin(PT, hub_id=PT), Origin("/x/base", fingerprint="1"), None, id="unnamed-copy"),
    ],
)
def test_weights_are_the_same_by_fingerprint_else_by_commit_else_by_hub_id(
    trained: Origin, here: Origin, same: bool | None
) -> None:
    assert is_same(trained, here) is same


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        pytest.param(
            Provenance(Origin(PT, hub_id=PT, commit=A), None, None),
            rf"trained on {PT} at commit aaaaaaaaaaaa, but this base is {MIX}\..* model={PT} "
            rf"model.revision={A}, or",
            id="base",
        ),
        pytest.param(Provenance(None, 448, None), "at 448 pixels, but this base has 224", id="resolution"),
        pytest.param(
            Provenance(None, 224, "peft.bits=4"),
            r"with peft\.bits=4, but here are peft\.bits=16",
            id="storage",
        ),
        pytest.param(
            Provenance(Origin(PT, hub_id=PT), 448, "peft.bits=4"),
            rf"on {PT}.*; at 448 pixels.*; with peft\.bits=4",
            id="all",
        ),
    ],
)
def test_another_base_is_refused_unless_any_is_allowed(
    trained: Provenance, message: str, reported: Callable[[], str]
) -> None:
    here = Provenance(Origin(MIX, hub_id=MIX), 224, "peft.bits=16")
    with pytest.raises(UserError, match=message) as error:
        check_base("The adapter `x`", trained, here, AdapterBase.trained, is_loaded=False)
    assert "adapter_base=any" in str(error.value)
    assert "\n" not in str(error.value)
    check_base("The adapter `x`", trained, here, AdapterBase.any, is_loaded=False)
    assert reported() == ""
    check_base("The adapter `x`", trained, here, AdapterBase.any)
    assert reported().count("warning: The adapter `x` was trained") == 1


def test_weights_that_were_replaced_in_their_folder_are_named_by_their_fingerprint() -> None:
    before, now = (Provenance(Origin("/x", fingerprint=f"sha256:{n * 64}"), None, None) for n in "12")
    with pytest.raises(UserError, match="on /x with weights sha256:111111111111, but this base is /x with"):
        check_base("The adapter `x`", before, now, AdapterBase.trained)


def test_what_is_not_known_is_a_warning_at_most(reported: Callable[[], str]) -> None:
    check_base("The adapter `x`", Provenance(None, None, None), HERE, AdapterBase.trained)
    assert reported() == ""
    gone = Provenance(Origin("/gone/base"), None, None)
    check_base("The adapter `x`", gone, HERE, AdapterBase.trained, is_loaded=False)
    assert reported() == ""
    check_base("The adapter `x`", gone, HERE, AdapterBase.trained)
    assert "was trained on /gone/base, and is used on tiny: whether these are the same" in reported()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": [Tower.vision_tower]}, "peft.bits=16"),
        (
            {"bits": 4, "quantize": [Tower.vision_tower, Tower.language_model]},
            "peft.bits=4 peft.quantize=[language_model,vision_tower] peft.double_quant=true",
        ),
        ({"bits": 8, "double_quant": False}, "peft.bits=8 peft.quantize=[language_model]"),
    ],
)
def test_storage_is_described_by_the_options_that_choose_it(options: dict[str, object], words: str) -> None:
    assert PeftConfig(PeftMethod.lora, **options).storage == words  # type: ignore[arg-type]


def test_the_files_of_a_run_say_what_its_adapter_was_trained_on(tmp_path: Path) -> None:
    def find(name: str) -> Path | None:
        return tmp_path / name if (tmp_path / name).is_file() else None

    settings = {"base_model_name_or_path": PT, "revision": A}
    assert read_provenance({}, find) == Provenance(None, None, None)
    assert read_provenance(settings, find) == Provenance(Origin(PT, A, PT, A), None, None)
    (tmp_path / "environment.json").write_text(json.dumps({"base": {"path": PT, "fingerprint": "1"}}))
    (tmp_path / "config.yaml").write_text("peft: {bits: 8, quantize: [vision_tower], r: 3}")
    shutil.copy(TINY_BASE / "processor_config.json", tmp_path)
    expected = Provenance(Origin(PT, fingerprint="1"), 56, "peft.bits=8 peft.quantize=[vision_tower]")
    assert read_provenance(settings, find) == expected
    for content in ("peft: 3", "- 1", "peft: {r: 3}", "{", "peft: {bits: '${oc.env:HOME}'}"):
        (tmp_path / "config.yaml").write_text(content)
        assert read_provenance(settings, find).storage is None


def test_a_base_that_is_on_this_machine_is_compared_by_its_weights(tmp_path: Path) -> None:
    moved = shutil.copytree(TINY_BASE, tmp_path / "moved")
    trained = read_provenance({"base_model_name_or_path": str(moved)}, lambda name: None)
    here = describe_base(ModelConfig("tiny"), load_config("tiny"), PeftConfig())
    assert here == HERE
    check_base("The adapter `x`", trained, here, AdapterBase.trained)
    assert trained.origin == find_origin(ModelConfig(str(moved)))
