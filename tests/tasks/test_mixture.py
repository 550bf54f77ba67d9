import pytest

from finetune.errors import UserError
from finetune.tasks.choice import ChoiceTask
from finetune.tasks.mixture import PART, MixedTask
from finetune.tasks.text import TextTask

MIXED = MixedTask({"a": TextTask("say {word}", "answers"), "b": ChoiceTask("{choices}")})


def test_each_row_is_asked_as_its_part_says() -> None:
    said = MIXED.build_text({PART: "a", "word": "x", "answers": ["y"], "choices": None})
    assert said == ("say x", ("y",))
    chosen = {PART: "b", "id": "1", "choices": ["u", "v"], "answer": 1, "answers": None}
    assert MIXED.build_text(chosen) == ("(A) u, (B) v", ("B",))
    assert MIXED.build_target(chosen) == {"references": ["B"], "part": "b"}


def test_a_missing_column_is_named_with_its_part() -> None:
    with pytest.raises(UserError, match="Part `b`: .*`choices`"):
        MIXED.check_columns(["word", "answers"])
