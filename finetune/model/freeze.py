"""Which parameters learn.

One policy decides for full fine-tuning (`requires_grad`) and for adapters (which layers get one).
"""

from transformers import PaliGemmaForConditionalGeneration

from finetune.errors import UserError
from finetune.model.options import FreezePolicy


def apply_freeze(model: PaliGemmaForConditionalGeneration, policy: FreezePolicy) -> None:
    """Set `requires_grad` of every parameter.

    Raises:
        UserError: nothing would learn.
    """
    layers = count_layers(model)
    policy.check(layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(policy.learns(name, layers))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("Nothing would learn: choose another `freeze`.")


def count_layers(model: PaliGemmaForConditionalGeneration) -> int:
    """Return the number of the language model's layers."""
    return int(model.config.get_text_config().num_hidden_layers)
