import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import UserError
from finetune.model.freeze import FreezePolicy
from finetune.model.load import choose_attention, load_adapter, load_config, load_model, load_processor
from finetune.model.lora import AdapterSettings, add_adapter
from finetune.model.published import published_config
from finetune.model.tiny import TINY_BASE


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does about a gated, a missing and a foreign repository."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        user = self.path.split("/")[1]
        if user == "open":
            body = b'{"model_type": "bert"}'
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
            return
        codes = {"gated": (403, "GatedRepo"), "revised": (404, "RevisionNotFound")}
        status, code = codes.get(user, (404, "RepoNotFound"))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "told by the server")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(
        huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("path", "revision", "message"),
    [
        ("gated/model", None, "is gated. Accept its licence"),
        ("missing/model", None, "There is no checkpoint `missing/model` on the Hub"),
        ("revised/model", "v9", "has no revision `v9`"),
        ("open/model", None, "is no PaliGemma: its config.json says model_type='bert'"),
        ("not a name", None, "neither a folder nor a Hub id"),
    ],
)
def test_the_hubs_refusals_are_explained(hub: None, path: str, revision: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(path, revision)


def test_a_cached_checkpoint_out_of_reach_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="is not in the local cache, and the Hub cannot be reached"):
        load_config("google/paligemma-3b-pt-224")


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint: there is no config.json"):
        load_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_config(str(tmp_path))


def test_another_resolution_is_an_error_that_names_both() -> None:
    with pytest.raises(UserError, match="trained at 56 pixels, but model.resolution=224"):
        load_config("tiny", resolution=224)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    shutil.copytree(TINY_BASE, tmp_path / "base")
    return tmp_path / "base"


def test_a_half_written_checkpoint_is_an_error(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(checkpoint), load_config(str(checkpoint)))


def test_missing_weights_are_an_error_that_names_one(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))
    del weights[name]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights, such as .*up_proj"):
        load_model(str(checkpoint), load_config(str(checkpoint)))


def test_missing_tokenizer_files_are_an_error(checkpoint: Path) -> None:
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_processor(str(checkpoint))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_in_the_format_asked_for(dtype: torch.dtype) -> None:
    model = load_model("tiny", load_config("tiny"), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_the_backbone_decides_the_attention() -> None:
    one, two = (published_config(f"google/paligemma{n}-3b-pt-224") for n in ("", "2"))
    assert one is not None
    assert two is not None
    assert (choose_attention(one), choose_attention(two)) == ("sdpa", "eager")
    assert choose_attention(one, "eager") == "eager"
    with pytest.raises(UserError, match="cannot compute PaliGemma 2's attention soft-cap"):
        choose_attention(two, "sdpa")


@pytest.mark.parametrize("keep", [False, True])
def test_the_final_soft_cap_is_off_unless_asked_for(checkpoint: Path, keep: bool) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["final_logit_softcapping"] = 30.0
    (checkpoint / "config.json").write_text(json.dumps(config))
    model = load_model(
        str(checkpoint), load_config(str(checkpoint)), final_logit_softcap=keep, dtype=torch.float32
    )
    assert getattr(model.config.get_text_config(), "final_logit_softcapping", None) == (
        30.0 if keep else None
    )


def test_an_adapter_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    policy = FreezePolicy("none", "none", "all")
    adapted = add_adapter(load_model("tiny", load_config("tiny")), policy, AdapterSettings())
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    again = load_adapter(load_model("tiny", load_config("tiny")), str(tmp_path / "adapter"))
    before, after = (
        {name: p for name, p in model.named_parameters() if "lora_" in name} for model in (adapted, again)
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_adapter_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    policy = FreezePolicy("none", "none", "all")
    adapted = add_adapter(load_model("tiny", load_config("tiny")), policy, AdapterSettings())
    adapted.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter/adapter_model.safetensors"
    renamed = {name.replace("language_model", "old_name"): value for name, value in load_file(file).items()}
    save_file(renamed, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"does not fit this base"):
        load_adapter(load_model("tiny", load_config("tiny")), str(tmp_path / "adapter"))


def test_a_folder_without_an_adapter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded on this base"):
        load_adapter(load_model("tiny", load_config("tiny")), str(tmp_path))
