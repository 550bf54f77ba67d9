"""Paths of a machine, which a card leaves out of its commands."""

import pytest

from finetune.publish.settings import hide_paths


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("recipe=quickstart", "recipe=quickstart"),
        ("dataset.train=data/a.jsonl", "dataset.train=data/a.jsonl"),
        ("dataset.train=/home/ann/my data/a.jsonl", "dataset.train=a.jsonl"),
        ("dataset.train=[/home/ann/a.jsonl,/home/ann/b.jsonl]", "dataset.train=[a.jsonl,b.jsonl]"),
        ("dataset.train=~/a.jsonl", "dataset.train=a.jsonl"),
        (r"dataset.train=C:\Users\ann\a.jsonl", "dataset.train=a.jsonl"),
        ("dataset.train=../../ann/a.jsonl", "dataset.train=a.jsonl"),
        ("dataset.columns={image: /home/ann/x}", "dataset.columns={image: x}"),
        ("model=google/paligemma-3b-pt-224", "model=google/paligemma-3b-pt-224"),
        ("task.prompt=either / or", "task.prompt=either / or"),
        ("task.mask_vae=/home/ann/vae.npz", "task.mask_vae=vae.npz"),
        ("/home/ann/run.py", "run.py"),
        ("recipe=/home/ann/mine.yaml", "recipe=mine.yaml"),
    ],
)
def test_absolute_paths_keep_their_last_name(word: str, shown: str) -> None:
    assert hide_paths([word]) == [shown]
