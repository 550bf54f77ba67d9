import pytest

from finetune.publish.options import PushAtEnd, PushOptions


@pytest.mark.parametrize(
    ("repo", "expected"),
    [
        ("digits", "repo='digits': expected USER/NAME"),
        ("a/b/c", "repo='a/b/c': expected USER/NAME"),
        ("https://huggingface.co/ann/digits", "expected USER/NAME, not an address"),
        ("datasets/ann/digits", "a result is published as a model"),
        ("ann/-digits", "the Hub accepts letters, digits"),
        ("ann/a--b", "the Hub accepts letters, digits"),
        ("ann/a.git", "the Hub accepts letters, digits"),
        ("ann/größe", "the Hub accepts letters, digits"),
        ("ann/" + "x" * 96, "at most 96 characters"),
        ("ann/a b", "the Hub accepts letters, digits"),
        ("/digits", "the Hub accepts letters, digits"),
        ("ann/", "the Hub accepts letters, digits"),
        ("ann/..", "the Hub accepts letters, digits"),
    ],
)
def test_a_name_that_the_hub_would_not_accept_is_a_problem(repo: str, expected: str) -> None:
    [problem] = PushOptions(repo=repo).problems("")
    assert expected in problem


@pytest.mark.parametrize("repo", ["ann/digits", "a-b_c.d/PaliGemma-3b.v2", "1/2"])
def test_a_name_that_the_hub_accepts_is_none(repo: str) -> None:
    assert not list(PushOptions(repo=repo).problems(""))
    assert not list(PushAtEnd(repo=repo, at_end=True).problems("push."))
