"""Every method: what is pushed, and what is merged, answers elsewhere as the run does.

The code is that of the card; its process cannot import this package, nor others that the card leaves out.

What is pushed gives the run's text. A merged model computes another sum: the run adds two products that are
rounded to bfloat16, the merged model computes one product. Where the two best tokens are nearly tied, this
rounding decides. So

- without autocast, in float32, every answer is that of the run computed in float32: only rounding differs;
- as the card says, under autocast, an answer differs only where the logits of both tokens are `TIED`, and
  few do.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from finetune.cli import main
from finetune.publish.facts import ResultKind, read_facts
from tests.hub.client import ConnectedHub
from tests.publish.conftest import ANSWER, TINY_RUN, find_code, place_images, read_rows, run_code

pytestmark = pytest.mark.exhaustive

TIED = 4
"""Distances of neighboring bfloat16 numbers between two logits. Each of two models rounds each of two
logits by up to half of one, which makes 2, the most that was seen; earlier layers round as well."""
FEW = 5
"""Answers of 100; 2 were the most that was seen."""

PACKAGES = {"accelerate", "bitsandbytes", "finetune", "peft"}

COMPARE = """
import contextlib, json, math
prompts, expected = json.load(open("prompts.json")), json.load(open("expected.json"))
answers = [ask(f"{number}.png", prompt) for number, prompt in enumerate(prompts)]

steps = []
hook = model.register_forward_hook(lambda module, given, output: steps.append(output.logits[0, -1].float()))
gaps = {}
for number, answer in enumerate(answers):
    if answer == expected[number]:
        continue
    steps.clear()
    ask(f"{number}.png", prompts[number])
    tokens = processor.tokenizer(expected[number], add_special_tokens=False)["input_ids"]
    tokens.append(processor.tokenizer.eos_token_id)
    best, other = next((s.max(), s[t]) for s, t in zip(steps, tokens) if s.argmax() != t)
    spacing = torch.finfo(torch.bfloat16).eps * 2 ** math.floor(math.log2(abs(best)))
    gaps[number] = float(best - other) / spacing
hook.remove()

torch.autocast = lambda *given: contextlib.nullcontext()
exact = [ask(f"{number}.png", prompt) for number, prompt in enumerate(prompts)]
print(json.dumps({"answers": answers, "gaps": gaps, "exact": exact}))
"""

METHODS = [
    pytest.param(["recipe=quickstart", "peft=lora"], id="lora"),
    pytest.param(["recipe=quickstart"], id="qlora"),
    pytest.param(["recipe=quickstart", "peft=dora"], id="dora"),
    pytest.param(
        ["recipe=quickstart", "peft=lora", "peft.modules_to_save=[multi_modal_projector]"],
        id="lora and a module in full",
    ),
    pytest.param(["recipe=quickstart_full"], id="full"),
]


def read_predictions(run: Path) -> list[str]:
    predictions = [row["prediction"] for row in read_rows(run)]
    assert len(predictions) == 100
    assert len(set(predictions)) > 3
    return predictions


def find_unnamed(card: str) -> list[str]:
    """Return the packages that the card does not ask its reader to install."""
    line = re.search(r"^pip install (.*)", card, re.MULTILINE)
    assert line is not None
    return sorted(PACKAGES - {*line[1].split()})


def compare_merged(folder: Path, run: Path, digits: Path) -> dict[str, Any]:
    card = (folder / "README.md").read_text(encoding="utf-8")
    blocked = find_unnamed(card)
    assert {*blocked} == PACKAGES
    place_images(digits, run, folder)
    (folder / "expected.json").write_text(json.dumps(read_predictions(run)))
    found: dict[str, Any] = run_code(find_code(card) + COMPARE, folder, {"PYTHONPATH": ""}, blocked)
    print(f"{folder.name}: {100 - len(found['gaps'])} of 100 alike; distances {found['gaps']}")
    return found


@pytest.mark.parametrize("words", METHODS)
def test_what_is_pushed_or_merged_answers_elsewhere_as_the_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Path, hub: ConnectedHub
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, *TINY_RUN, "run_name=a"]) == 0
    run = tmp_path / "runs/a"
    kind = read_facts(run).kind

    assert main(["push", "run=runs/a", "repo=ann/digits"]) == 0
    card = hub.files("ann/digits")["README.md"].decode()
    blocked = find_unnamed(card)
    assert "finetune" in blocked
    reader = tmp_path / "reader"
    place_images(digits, run, reader)
    code = find_code(card) + ANSWER
    assert run_code(code, reader, {**hub.env, "PYTHONPATH": ""}, blocked) == read_predictions(run)

    weights = {ResultKind.adapter: "adapter=runs/a/adapter", ResultKind.model: "model=runs/a/model"}
    exactly = ["trainer.bf16=false", "model.dtype=float32", "run_name=exact"]
    assert main(["evaluate", "recipe=runs/a/config.yaml", weights[kind], *exactly]) == 0
    for dtype in ("bfloat16", "float32"):
        assert main(["merge", "run=runs/a", f"out={dtype}", f"dtype={dtype}"]) == 0
        found = compare_merged(tmp_path / dtype, run, digits)
        assert len(found["gaps"]) <= FEW
        assert all(gap <= TIED for gap in found["gaps"].values()), found["gaps"]
    assert found["exact"] == read_predictions(tmp_path / "runs/exact")

    if read_facts(run).setting("peft.bits") == 4:
        assert main(["merge", "run=runs/a", "out=original", "into=original"]) == 0
        compare_merged(tmp_path / "original", run, digits)  # another model: only that its card works
