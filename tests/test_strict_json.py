import pytest

from finetune.strict_json import JsonError, parse_json


def test_a_text_is_read_as_the_standard_decoder_reads_it() -> None:
    assert parse_json('{"a": [1, 2.5, null, {"b": "\\u00e9"}]}') == {"a": [1, 2.5, None, {"b": "é"}]}
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            '{"a": {"b": 1, "c": 2, "b": 3}}', "the key `b` is in one object twice", id="key twice"
        ),
        pytest.param("[" * 100_000, "nested too deeply", id="deep"),
    ],
)
def test_what_the_standard_decoder_accepts_or_stumbles_over_is_refused(text: str, message: str) -> None:
    with pytest.raises(JsonError, match=message):
        parse_json(text)


def test_a_text_is_read_whatever_was_wrong_with_the_one_before() -> None:
    for flawed in ('{"a": 1, "a": 2}', '{"a": 1, "a"', '{"a": 1, "a": 2} 3'):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_json(flawed)
        assert parse_json('{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("text", ['{"a"', '{"a": 1} 2', "9" * 5_000, b"\xff"])
def test_what_is_not_json_raises_the_standard_decoders_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)
