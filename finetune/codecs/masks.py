"""Masks as PaliGemma's text and back: `<loc>` x4 `<seg>` x16, sixteen codes for the mask in its box.

The crop is taken from the image in its own resolution with the box as annotated, not as binned; the
decoded mask is pasted into the box as read.

Source: big_vision `pp/proj/paligemma/segmentation.py` (writing) and
`evaluators/proj/paligemma/transfers/segmentation.py` (reading).
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from finetune.codecs.boxes import DIVISOR, Reading, check_boxes, decode_boxes, decode_official
from finetune.codecs.mask_vae import SIDE, MaskVae
from finetune.codecs.rle import read_runs


def encode_mask_codes(
    masks: np.ndarray | Sequence[np.ndarray], boxes_xyxy: np.ndarray, vae: MaskVae
) -> np.ndarray:
    """Return the codes of masks, (N, 16) int64, 0 to 127.

    Args:
        masks: (N, height, width), N at least 1, bool or 0 and anything else.
        boxes_xyxy: (N, 4) floats, pixels.
        vae: gives a mask its codes.

    Raises:
        ValueError: the shapes do not fit, a box is refused, or a mask has no pixel in its box.
    """
    shapes = [tuple(mask.shape) for mask in masks]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"Expected `masks` to be of one (height, width), but got {sorted(set(shapes))}.")
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    if boxes.shape != (len(masks), 4):
        expected = f"({len(masks)}, 4), one row per mask"
        raise ValueError(f"Expected `boxes_xyxy` to be {expected}, but got {boxes.shape}.")
    check_boxes(boxes, shapes[0])
    crops = []
    for row, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        crop = crop_mask(mask, box)
        if not crop.any():
            raise ValueError(f"Expected mask {row} to have pixels in its box {box.tolist()}, but got none.")
        crops.append(resize_crop(crop))
    return vae.encode(torch.stack(crops)).cpu().numpy()


def has_pixels(rle: object, box_xyxy: np.ndarray, size: tuple[int, int]) -> bool:
    """Return whether `crop_mask` of the drawn mask would have a pixel, without drawing it.

    Args:
        rle: COCO's run lengths.
        box_xyxy: (4,) floats, pixels.
        size: image height and width, pixels.

    Raises:
        ValueError: the run lengths are of another size, or do not fill it.
    """
    height, width = size
    x_min, y_min, x_max, y_max = np.rint(box_xyxy).astype(int).clip(0, (width, height) * 2)
    ends = np.cumsum(read_runs(rle, size))
    # Runs of the mask, column by column, as far as they are in the box's columns.
    starts, stops = ends[:-1:2], ends[1::2]
    starts, stops = starts.clip(x_min * height), stops.clip(max=x_max * height)
    starts, stops = starts[stops > starts], stops[stops > starts]
    top = starts % height
    bottom = top + stops - starts
    # A run covers rows of the column where it starts, and from row 0 on of the next ones.
    first = (top < y_max) & (np.minimum(bottom, height) > y_min)
    return y_max > y_min and bool((first | (bottom > height + y_min)).any())


def crop_mask(mask: np.ndarray, box_xyxy: np.ndarray) -> np.ndarray:
    """Cut a box out of a mask; edges round to the nearest pixel, halves to even.

    Args:
        mask: (height, width), bool or 0 and anything else.
        box_xyxy: (4,) floats, pixels.

    Returns:
        bool, as large as the box; without a pixel where the rounded box has none.
    """
    x_min, y_min, x_max, y_max = np.rint(box_xyxy).astype(int).clip(min=0)
    return mask[y_min:y_max, x_min:x_max] != 0


def resize_crop(crop: np.ndarray) -> torch.Tensor:
    """Scale a crop of (height, width) bool to (64, 64) float32, 0 to 1, bilinear with antialiasing."""
    pixels = torch.from_numpy(np.ascontiguousarray(crop, dtype=np.float32))
    scaled = torch.nn.functional.interpolate(
        pixels[None, None], size=(SIDE, SIDE), mode="bilinear", antialias=True
    )
    return scaled[0, 0]


def decode_masks(
    text: str, size: tuple[int, int], vae: MaskVae, divisor: int = DIVISOR, official: bool = False
) -> tuple[Reading, list[np.ndarray | None]]:
    """Read the objects of an answer with their masks.

    Args:
        text: what the model generated.
        size: image height and width, pixels.
        vae: turns codes into a mask.
        divisor: 1023, or 1024 for text that was written so.
        official: read as `decode_official` does, not as `decode_boxes`.

    Returns:
        What these return, and for each of its objects a mask of (height, width) bool; None
        where the text has no readable mask.
    """
    reading = (decode_official if official else decode_boxes)(text, size, divisor)
    rows = [row for row, obj in enumerate(reading.objects) if obj.codes is not None]
    masks: list[np.ndarray | None] = [None] * len(reading.objects)
    if rows:
        codes = torch.tensor([reading.objects[row].codes for row in rows])
        for row, map_ in zip(rows, vae.decode(codes).cpu().numpy(), strict=True):
            masks[row] = paste_mask(map_, reading.objects[row].box_xyxy, size)
    return reading, masks


def paste_mask(
    map_: np.ndarray, box_xyxy: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """Scale a decoded map to its box and threshold it at 0.

    Args:
        map_: (64, 64) float32, about -1 outside the object and 1 inside.
        box_xyxy: pixels; truncated to whole ones.
        size: image height and width, pixels.

    Returns:
        (height, width) bool; all False where the truncated box has no pixel.
    """
    mask = np.zeros(size, dtype=bool)
    x_min, y_min, x_max, y_max = map(int, box_xyxy)
    if x_max > x_min and y_max > y_min:
        box_size = (x_max - x_min, y_max - y_min)
        scaled = Image.fromarray(map_).resize(box_size, Image.Resampling.BILINEAR)
        mask[y_min:y_max, x_min:x_max] = np.asarray(scaled) > 0.0
    return mask
