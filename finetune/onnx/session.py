"""Exported graphs run by ONNX Runtime on the CPU, in the steps that Transformers.js takes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

from finetune.example import Prompts
from finetune.onnx.graphs import DECODER, EMBEDDING, VISION
from finetune.onnx.options import ExportDtype


class Answers(NamedTuple):
    """Tokens that a model chose after some prompts; each array is (B, steps)."""

    tokens: np.ndarray
    """Ids; after the first EOS of a row they mean nothing."""
    probabilities: np.ndarray
    """Of these tokens."""
    lead: np.ndarray
    """Logit of the token less that of the one that was expected; 0 without any."""


class OnnxModel:
    """The three graphs of an exported model.

    Args:
        folder: with the ONNX files.
        dtype: of the files.
        image_token: id of the token that image features replace.
    """

    def __init__(self, folder: Path, dtype: ExportDtype, image_token: int) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._image_token = image_token
        self._vision, self._embedding, self._decoder = (
            onnxruntime.InferenceSession(
                folder / f"{name}{dtype.suffix}.onnx", options, providers=["CPUExecutionProvider"]
            )
            for name in (VISION, EMBEDDING, DECODER)
        )

    def answer(self, prompts: Prompts, end: int, steps: int, expected: np.ndarray | None = None) -> Answers:
        """Choose the likeliest token at each step.

        Args:
            prompts: padded on the left.
            end: id of EOS.
            steps: most tokens of an answer.
            expected: (B, steps) tokens to go on with in place of those chosen.
        """
        ids, mask = prompts["input_ids"].numpy(), prompts["attention_mask"].numpy()
        embedded = self._embed(ids)
        [features] = self._vision.run(None, {"pixel_values": prompts["pixel_values"].numpy()})
        embedded[ids == self._image_token] = features.reshape(-1, features.shape[-1])
        past = {
            node.name: np.zeros((len(ids), node.shape[1], 0, node.shape[3]), np.float32)
            for node in self._decoder.get_inputs()
            if node.name.startswith("past_key_values.")
        }
        positions = np.where(mask == 0, 1, mask.cumsum(1))
        steps = steps if expected is None else expected.shape[1]
        chosen, probabilities, leads = [], [], []
        for step in range(steps):
            feeds = {"inputs_embeds": embedded, "attention_mask": mask, "position_ids": positions}
            logits, *present = self._decoder.run(None, {**feeds, **past})
            past = dict(zip(past, present, strict=True))
            scores = logits[:, -1].astype(np.float64)
            tokens = scores.argmax(-1)
            best = scores.max(-1)
            wanted = tokens if expected is None else expected[:, step]
            chosen.append(tokens)
            probabilities.append(1 / np.exp(scores - best[:, None]).sum(-1))
            leads.append(best - scores[np.arange(len(ids)), wanted])
            if expected is None and all((row == end).any() for row in np.stack(chosen, 1)):
                break
            mask = np.concatenate([mask, np.ones((len(ids), 1), np.int64)], axis=1)
            positions = mask.sum(1, keepdims=True)
            embedded = self._embed(wanted[:, None])
        return Answers(np.stack(chosen, 1), np.stack(probabilities, 1), np.stack(leads, 1))

    def _embed(self, ids: np.ndarray) -> np.ndarray:
        [embedded] = self._embedding.run(None, {"input_ids": ids})
        return np.array(embedded)
