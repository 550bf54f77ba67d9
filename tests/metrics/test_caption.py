import json
import random
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.metrics.caption import Caption, CaptionTokenizer
from finetune.metrics.metric import compute_by_group

WORDS = "a a a the the cat dog bird man woman on in red blue mat snow sits runs two with".split()


def write_captions(count: int) -> Iterator[list[str]]:
    chance = random.Random(0)
    for _ in range(count):
        yield [
            " ".join(chance.choices(WORDS, k=chance.randint(1, 14))) for _ in range(chance.randint(2, 6))
        ]


def test_the_reference_implementation_comes_to_the_same_numbers() -> None:
    package = pytest.importorskip("pycocoevalcap", reason="the extra `ptb` is not installed").__name__
    bleu_4 = import_module(f"{package}.bleu.bleu").Bleu(4)
    cider = import_module(f"{package}.cider.cider").Cider()
    rouge = import_module(f"{package}.rouge.rouge").Rouge()
    captions = dict(enumerate(write_captions(60)))
    found = {key: texts[:1] for key, texts in captions.items()}
    wanted = {key: texts[1:] for key, texts in captions.items()}
    rows = [{"prediction": texts[0], "references": texts[1:]} for texts in captions.values()]
    bleu, _ = bleu_4.compute_score(wanted, found, verbose=0)
    assert Caption(CaptionTokenizer.whitespace).compute(rows) == pytest.approx(
        {
            "cider_d": float(cider.compute_score(wanted, found)[0]),
            **{f"bleu_{n}": score for n, score in enumerate(bleu, 1)},
            "rouge_l": float(rouge.compute_score(wanted, found)[0]),
        },
        rel=1e-9,
    )


def test_pix2struct_own_test_scores_the_same() -> None:
    pairs = [
        ("abc", "abc"), ("abc", "Abc"), ("Abc", "abc"), ("100%", "96%"), ("100%", "94%"), ("100%", "0.96"),
        ("100%", "0.94"), ("Don't", "Won't"),
    ]  # fmt: skip
    rows = [{"prediction": prediction, "references": [target]} for prediction, target in pairs]
    assert Caption().compute(rows)["cider_d"] == pytest.approx(1.286058, abs=1e-6)


def test_only_a_set_has_a_score_and_a_group_is_a_set() -> None:
    rows: list[dict[str, Any]] = [
        {"prediction": text, "references": [text], "group": group}
        for text, group in [("a red cat sits here", "x"), ("two dogs run in snow", "x"), ("one man", "y")]
    ]
    assert [Caption().score(row) for row in rows] == [None] * 3  # type: ignore[func-returns-value]
    groups = compute_by_group(Caption(), rows)["by_group"]
    assert groups["x"]["cider_d"] == pytest.approx(10)
    assert groups["y"]["cider_d"] == 0


def test_the_tokenizer_decides_what_a_word_is() -> None:
    rows = [{"prediction": "A cat.", "references": ["a cat"]}]
    assert Caption().compute(rows)["rouge_l"] == pytest.approx(1)
    assert Caption(CaptionTokenizer.whitespace).compute(rows)["rouge_l"] == 0


def test_an_unknown_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"metric.tokenizer=ptb3 is not known. Did you mean `ptb`"):
        Caption(tokenizer="ptb3")  # type: ignore[arg-type]


def test_a_row_without_references_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="Row `i1`: expected `references`"):
        Caption().score({"id": "i1", "prediction": "a cat"})


@pytest.mark.parity
def test_nlg_eval_example_scores_as_the_reference(parity_data: Path) -> None:
    folder = parity_data / "captions/nlgeval"
    found, *wanted = ((folder / f"{name}.txt").read_text().splitlines() for name in ("hyp", "ref1", "ref2"))
    rows = [
        {"prediction": prediction, "references": list(references)}
        for prediction, *references in zip(found, *wanted, strict=True)
    ]
    assert Caption(CaptionTokenizer.whitespace).compute(rows) == pytest.approx(
        {
            "cider_d": 1.2421920,
            "bleu_1": 0.5500000,
            "bleu_2": 0.4281744,
            "bleu_3": 0.2840428,
            "bleu_4": 0.2011434,
            "rouge_l": 0.5221038,
        },
        abs=1e-5,
    )


@pytest.mark.parity
@pytest.mark.parametrize("tokenizer", [CaptionTokenizer.ptb_like, CaptionTokenizer.ptb])
@pytest.mark.parametrize(
    ("name", "rouge_l", "cider_d"), [("good", 0.428010, 0.563741), ("bad", 0.312111, 0.279017)]
)
def test_clipscore_example_scores_as_the_reference(
    parity_data: Path, name: str, rouge_l: float, cider_d: float, tokenizer: CaptionTokenizer
) -> None:
    if tokenizer == CaptionTokenizer.ptb:
        pytest.importorskip("pycocoevalcap", reason="the extra `ptb` is not installed")
        if not shutil.which("java"):
            pytest.skip("no java on the PATH")
    folder = parity_data / "captions/clipscore"
    references = json.loads((folder / "refs.json").read_text())
    found = json.loads((folder / f"{name}_captions.json").read_text())
    rows = [{"prediction": text, "references": references[image]} for image, text in found.items()]
    fields = Caption(tokenizer=tokenizer).compute(rows)
    assert fields["rouge_l"] == pytest.approx(rouge_l, abs=1e-5)
    assert fields["cider_d"] == pytest.approx(cider_d, abs=1e-5)
