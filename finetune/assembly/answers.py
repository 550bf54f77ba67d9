"""The longest answer that is generated, settled from the references before anything slow is done."""

import logging
from dataclasses import replace

from omegaconf import OmegaConf
from transformers import PaliGemmaProcessor

from finetune.config.schema import RunConfig
from finetune.data.examples.dataset import ExampleDataset
from finetune.evaluation.lengths import measure_references
from finetune.run.folder import Launch

AT_LEAST = 16
"""Tokens: where every reference is one word, another answer is still read whole."""

log = logging.getLogger(__name__)


def settle_longest_answer(
    config: RunConfig,
    launch: Launch,
    processor: PaliGemmaProcessor,
    validation: ExampleDataset,
    train: ExampleDataset | None = None,
) -> Launch:
    """Give `evaluation.max_new_tokens` its value, or report one that cuts references.

    Args:
        config: gets the value where it has none.
        launch: its recipe is what the run leaves as `config.yaml`.
        processor: the checkpoint's.
        validation: the examples whose references are measured.
        train: those that are trained on, if any; a value of one's own is not compared with them.

    Returns:
        The launch with the value in its recipe, so that the run's answers are as long without its data.
    """
    limit = config.evaluation.max_new_tokens
    longest, cut = measure_references(validation, processor.tokenizer, limit)
    if limit is not None:
        if cut:
            log.warning(
                "warning: evaluation.max_new_tokens=%d cuts the answers of %d of %d validation examples: "
                "their references have up to %d tokens, EOS among them. evaluation.max_new_tokens=%d has "
                "room for them, and null for a quarter more.",
                limit,
                cut,
                len(validation),
                longest,
                longest,
            )
        return launch
    if train is not None:
        longest = max(longest, measure_references(train, processor.tokenizer).longest)
    # A quarter more than any reference: an answer to an image that is in neither split may be longer.
    config.evaluation.max_new_tokens = max(AT_LEAST, longest + -(-longest // 4))
    recipe = OmegaConf.create(launch.recipe)
    OmegaConf.update(recipe, "evaluation.max_new_tokens", config.evaluation.max_new_tokens)
    comments = [line for line in launch.recipe.splitlines() if line.startswith("#")]
    return replace(launch, recipe="\n".join([*comments, OmegaConf.to_yaml(recipe)]))
