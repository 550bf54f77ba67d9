import torch
from torch import Tensor

from finetune.model.cache import RowCache


def fill(rows: int, length: int, value: float) -> RowCache:
    keys = torch.full((rows, 1, length, 1), value)
    return RowCache([(keys, keys.clone())], [length] * rows)


def add(cache: RowCache, values: list[float]) -> Tensor:
    """Add a token to each row; return the keys of the layer, (rows, columns)."""
    new = torch.tensor(values, dtype=torch.float32)[:, None, None, None]
    cache.make_room()
    keys, _ = cache.write(0, new, new)
    cache.advance()
    return keys[:, 0, :, 0]


def test_a_row_goes_on_from_all_that_another_wrote_after_their_prompt() -> None:
    cache = fill(2, 5, 0.0)
    cache.join(fill(2, 2, 1.0), 4)  # shorter than those that are there
    add(cache, [10, 11, 12, 13])
    cache.reorder(torch.tensor([1, 1, 3, 3]))
    keys = add(cache, [20, 21, 22, 23])
    assert keys[0].tolist() == [0, 0, 0, 0, 0, 11, 20]
    assert keys[2, :4].tolist() == [1, 1, 13, 22]


def test_the_last_row_takes_the_place_of_one_that_leaves() -> None:
    cache = fill(1, 3, 0.0)
    cache.join(fill(2, 4, 1.0), 3)
    add(cache, [10, 11, 12])
    cache.keep([2, 1])
    assert len(cache) == 2
    assert cache.number(1).flatten().tolist() == [6, 6]
    keys = add(cache, [20, 21])
    assert keys[:, :6].tolist() == [[1, 1, 1, 1, 12, 20], [1, 1, 1, 1, 11, 21]]
