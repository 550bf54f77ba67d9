import pytest

from finetune.data.recognition.kinds import Kind
from finetune.data.recognition.texts import kind_of_answers

BOX = "<loc0001><loc0002><loc0003><loc0004>"
LONG = "a red cup on a table next to a plate with two spoons"


@pytest.mark.parametrize(
    ("answers", "prompts", "kind"),
    [
        pytest.param(["a cup", "3"], ["what?", "how many?"], Kind.pairs, id="short"),
        pytest.param([LONG], ["what?"], Kind.long_pairs, id="long"),
        pytest.param(["a cup"], ["caption en"], Kind.long_pairs, id="caption"),
        pytest.param([f"{BOX} cup", "", f"{BOX}<seg001> dog"], ["detect"], Kind.box_pairs, id="boxes"),
        pytest.param(["<ref-object><bbox>, <ref-object><bbox>"], ["find"], Kind.box_pairs, id="places"),
        pytest.param([f"{BOX} cup", "nothing"], ["detect"], Kind.pairs, id="boxes and words"),
        pytest.param(['{"total": "7.20"}', "[]"], ["extract"], Kind.extraction, id="JSON"),
        pytest.param(['{"total": "7.20"}', "none"], ["extract"], Kind.pairs, id="JSON and words"),
        pytest.param([], [], Kind.pairs, id="nothing"),
    ],
)
def test_answers_say_what_they_are_for(answers: list[str], prompts: list[str], kind: Kind) -> None:
    assert kind_of_answers(answers, prompts) == kind
