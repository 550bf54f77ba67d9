"""Label Studio's run lengths of a brush: the bytes of an RGBA image, packed as bits."""

import numpy as np

from finetune.codecs.rle import MOST_PIXELS
from finetune.errors import describe

_CHANNELS = 4


def decode_brush(rle: object, size: tuple[int, int]) -> np.ndarray:
    """Read the mask of a brush, which is where alpha is above 0.

    A head has the number of values (32 bits), the bits of a value (5) and of four kinds of length (4 each),
    all but the first less one. Blocks follow: one bit says whether a value is repeated, two the kind of
    length, then the length less one, and the value or values.

    Source: label-studio-converter `brush.py`, `decode_rle`.

    Args:
        rle: whole numbers from 0 to 255.
        size: image height and width, pixels.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: these are not such run lengths, or those of an image of another size.
    """
    if not isinstance(rle, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        raise ValueError(f"Expected `rle` to be numbers from 0 to 255, but got {describe(rle)}.")
    bits = "".join(f"{byte:08b}" for byte in rle)
    height, width = size
    count = height * width * _CHANNELS
    position = 0

    def take(number: int) -> int:
        nonlocal position
        position += number
        if position > len(bits):
            raise ValueError(f"Expected {count} values, but `rle` ends before them.")
        return int(bits[position - number : position], 2)

    given = take(32)
    if given != count or height * width > MOST_PIXELS:
        raise ValueError(
            f"Expected `rle` of an image of {width} x {height} pixels, but it has {given} values."
        )
    word, lengths = take(5) + 1, [take(4) + 1 for _ in range(4)]
    values = np.zeros(count, dtype=np.uint8)
    index = 0
    while index < count:
        repeated = take(1)
        end = index + 1 + take(lengths[take(2)])
        if end > count:
            raise ValueError(f"Expected {count} values, but `rle` has more.")
        values[index:end] = take(word) if repeated else [take(word) for _ in range(end - index)]
        index = end
    return values.reshape(height, width, _CHANNELS)[:, :, -1] > 0
