import shutil
import sys

import pytest

from finetune.errors import UserError
from finetune.metrics.tokenizer import tokenize_ptb, tokenize_ptb_like, tokenize_whitespace

# What Stanford's tokenizer made of them, dropped punctuation left out.
CASES = [
    ("A man can't ride his dog's bike.", "a man ca n't ride his dog 's bike"),
    ("The dogs' toys, they're red/blue and 3/4 full.", "the dogs toys they 're red/blue and 3/4 full"),
    ('He said "hello" and \'goodbye\' (loudly) [here].',
     "he said hello and goodbye -lrb- loudly -rrb- -lsb- here -rsb-"),
    ("Mr. Smith and St. Louis in the U.S. at 5 p.m.", "mr. smith and st. louis in the u.s. at 5 p.m."),
    ("It is 5 p.m. now. The end", "it is 5 p.m. now the end"),
    ("Number no. 7 says no. No", "number no. 7 says no no"),
    ("cannot gonna 'tis y'all", "can not gon na 't is y' all"),
    ("$5 costs 50% #1 A&B a & b 1,000 12:30 2.5 1st", "$ 5 costs 50 % # 1 a&b a & b 1,000 12:30 2.5 1st"),
    ("black-and-white -- photo - done... wow\u2026", "black-and-white photo done wow"),
    ("t-shirt TV. o'clock rock'n'roll ma'am O'Hare", "t-shirt tv o'clock rock 'n' roll ma'am o'hare"),
    ("e-mail foo@bar.com http://www.foo.com", "e-mail foo@bar.com http://www.foo.com"),
    ("a man;woman a cat , sitting . on", "a man woman a cat sitting on"),
    ("fries!! what?! yes? no!", "fries !! what ?! yes no"),
    ("a man w/ a dog w/o a/c", "a man w / a dog w/o a/c"),
    ("\u201csmart\u201d it\u2019s don\u2019t", "smart it 's do n't"),
    ("5'10\" tall, 4x4, 10-12, 1990s", "5 10 tall 4x4 10-12 1990s"),
    ("caf\u00e9 na\u00efve \u4e2d\u6587", "caf\u00e9 na\u00efve \u4e2d\u6587"),
    ("a man.... two.. three", "a man two three"),
    (" . ", ""),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("caption", "words"), CASES)
def test_words_are_those_of_the_penn_treebank(caption: str, words: str) -> None:
    assert tokenize_ptb_like(caption) == words.split()


@pytest.mark.parity
def test_the_penn_treebank_tokenizer_itself_makes_the_same_words() -> None:
    pytest.importorskip("pycocoevalcap", reason="the extra `ptb` is not installed")
    if not shutil.which("java"):
        pytest.skip("no java on the PATH")
    captions = [caption for caption, _ in CASES]
    assert tokenize_ptb(captions) == [words.split() for _, words in CASES]


def test_the_penn_treebank_tokenizer_asks_for_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.tokenizer.ptbtokenizer", None)
    with pytest.raises(UserError, match=r"pip install pycocoevalcap, and Java.*ptb_like"):
        tokenize_ptb(["a cat"])


def test_the_penn_treebank_tokenizer_asks_for_java(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap", reason="the extra `ptb` is not installed")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"needs Java on the PATH.*ptb_like"):
        tokenize_ptb(["a cat"])


def test_white_space_alone_changes_nothing_else() -> None:
    assert tokenize_whitespace(" A  man's dog. ") == ["A", "man's", "dog."]
