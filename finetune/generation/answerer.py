"""Answers prompts, as many at once as the memory takes."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from finetune.errors import UserError
from finetune.generation.automaton import Automaton
from finetune.generation.beam import Beams
from finetune.generation.greedy import Greedy
from finetune.generation.limits import Limits, build_automata
from finetune.generation.options import GenerationOptions
from finetune.generation.pool import Pool
from finetune.generation.reading import Distinct, Reading
from finetune.model.decoder import Decoder, find_base
from finetune.model.out_of_memory import is_out_of_memory
from finetune.model.products import find_products, multiplied_by_onednn

log = logging.getLogger(__name__)

UNKNOWN_LENGTH = 128
"""Most tokens of an answer if there are no references; the value of big_vision's command line."""

_FEWEST, _MOST = 16, 256
"""Prompts that are answered at once where nothing says how many."""

_HOST_MEMORY = 2**30
"""Bytes that a CPU spends on them."""

_DEVICE_SHARE = 0.4
"""Share of a GPU's free memory that it spends on them."""

_TOKENS = {"cpu": 1024, "cuda": 32768}
"""Tokens of prompts that are read at once: on a CPU no more than its caches take."""


class Answerer:
    """Answers batches of prompts.

    Args:
        model: in evaluation mode.
        tokenizer: the checkpoint's.
        options: their `batch_size`, `num_beams` and `max_new_tokens`.
        autocast: context of the forward passes.
        on_shrink: called where memory was short, with the number of prompts at once from then on.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        options: GenerationOptions,
        autocast: AbstractContextManager[object],
        on_shrink: Callable[[int], None] | None = None,
    ) -> None:
        self._on_shrink = on_shrink
        self._model, self._tokenizer, self._autocast = model, tokenizer, autocast
        self._steps = options.max_new_tokens or UNKNOWN_LENGTH
        self._beams = options.num_beams
        self._decoder = Decoder(model)
        self._products = find_products(model)
        self._size = options.batch_size
        self._pool: Pool | None = None
        self._tokens = _TOKENS.get(next(model.parameters()).device.type, _TOKENS["cuda"])
        self.image_token: int = find_base(model).config.image_token_id

    def work(self, readings: "deque[Reading[Any]]", *, finish: bool = False) -> None:
        """Read the prompts that are not read yet, and answer what has to leave for them.

        Args:
            readings: batches that are not answered yet, in their order.
            finish: answer all of them.

        Raises:
            UserError: the device has no memory for a single prompt, or no answer is short enough.
        """
        while True:
            try:
                with self._autocast, multiplied_by_onednn(self._products):
                    self._read(readings)
                    while finish and self._pool:
                        self._pool.step()
                return
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(error)
            # Outside the block: the error keeps the tensors of the batch alive.
            for reading in readings:
                reading.start_again()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _read(self, readings: "Iterable[Reading[Any]]") -> None:
        for reading in readings:
            if self._size is None:
                self._size = self._choose_size(reading)
            most = max(1, self._size // 4)
            for part in reading.divide(most, self._tokens):
                automata = self._list_automata(reading, part)
                pool = self._pool = self._pool or self._open_pool(self._size, automata is not None)
                while len(pool) + len(part) > self._size:
                    pool.step()
                logits, cache = reading.read(self._model, self._decoder, part, self._tokens)
                pool.join(logits, cache, [partial(reading.receive, one) for one in part], automata)

    def _list_automata(self, reading: Reading[Any], part: Sequence[Distinct]) -> list[Automaton] | None:
        forms = reading.prompts.get("forms")
        if forms is None:
            return None
        return build_automata([forms[one.rows[0]] for one in part], self._tokenizer, self._steps)

    def _open_pool(self, size: int, is_limited: bool) -> Pool:
        end = self._tokenizer.eos_token_id
        limits = Limits(self._steps, self._beams) if is_limited else None
        if self._beams == 1:
            return Pool(self._decoder, Greedy(self._steps, end, limits), size)
        device = next(self._model.parameters()).device
        return Pool(self._decoder, Beams(self._beams, self._steps, end, device, limits), size)

    def _choose_size(self, reading: Reading[Any]) -> int:
        """Return how many prompts like those of a batch fit into memory with their answers."""
        text = find_base(self._model).config.get_text_config()
        parameter = next(self._model.parameters())
        length = max(len(prompt.ids) for prompt in reading.distinct) + self._steps
        heads = text.num_hidden_layers * text.num_key_value_heads * text.head_dim
        # Keys and values; scores of the next token, their probabilities, and what is made of them.
        needed = self._beams * (2 * heads * length * parameter.element_size() + 4 * 4 * text.vocab_size)
        room = _HOST_MEMORY
        if parameter.device.type == "cuda":
            room = int(_DEVICE_SHARE * torch.cuda.mem_get_info(parameter.device)[0])
        return min(_MOST, max(_FEWEST, room // needed))

    def _shrink(self, error: Exception) -> None:
        """Halve what is done at once.

        Raises:
            UserError: it is a single prompt already.
        """
        self._pool = None
        if self._size is None or self._size == 1:
            raise UserError(
                "The device has too little memory for a single prompt. A smaller model.resolution, or "
                "peft.bits=4 with model=, needs less."
            ) from error
        size, self._size = self._size, (self._size + 1) // 2
        self._tokens //= 2
        log.info(
            "out of memory with %d prompts at once: %d from now on (evaluation.batch_size)",
            size,
            self._size,
        )
        if self._on_shrink is not None:
            self._on_shrink(self._size)
