import numpy as np

from finetune.codecs.rle import decode_rle
from finetune.data.images import Picture
from finetune.data.options import Canvas
from finetune.data.shipped.canvas import INK


def test_boxes_and_masks_are_exactly_the_digits_ink() -> None:
    splits = Canvas(train=30, validation=20, size=56, digits=3).load()
    assert (len(splits.train), len(splits.validation)) == (30, 20)
    for row in splits.train:
        grey = np.asarray(Picture(row["image"], "canvas").load())[..., 0]
        union = np.zeros((56, 56), bool)
        for one in row["objects"]:
            mask = decode_rle(one["mask_rle"], (56, 56))
            rows, columns = np.nonzero(mask)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert edges == one["box_xyxy"]
            assert not (union & mask).any()
            union |= mask
        assert 1 <= len(row["objects"]) <= 3
        assert ((grey >= INK) == union).all()


def test_canvases_are_the_same_each_time_and_differ_between_the_splits() -> None:
    first, second = (Canvas(train=10, validation=10, size=56, digits=2).load() for _ in range(2))
    assert first.train[3] == second.train[3]
    assert first.train[3]["image"] != first.validation[3]["image"]
