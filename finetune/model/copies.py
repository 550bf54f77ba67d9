"""Modules that learn in full next to the adapters: `peft.modules_to_save`, of which PEFT makes copies."""

from collections.abc import Sequence

from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import PaliGemmaForConditionalGeneration

from finetune.errors import UserError, suggest

_KEY = "peft.modules_to_save"


def find_copied_modules(
    model: PaliGemmaForConditionalGeneration, names: Sequence[str], targets: Sequence[str]
) -> list[str]:
    """Return the full names of the modules to copy.

    Args:
        model: the base.
        names: a module's name, or the last parts of it; several modules may share one.
        targets: full names of the layers that get an adapter.

    Raises:
        UserError: no module has such a name, or it cannot learn next to the adapters.
    """
    modules = dict(model.named_modules())
    embedding, head = (
        next(name for name, module in modules.items() if module is wanted)
        for wanted in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    chosen: dict[str, str] = {}
    for name in names:
        matching = [full for full in modules if full == name or full.endswith(f".{name}")]
        if not name or not matching:
            known = sorted({part for full in modules for part in full.split(".") if part})
            raise UserError(f"{_KEY}: no module is called `{name}`.{suggest(name, known)}")
        # One tensor under two names: PEFT copies the embedding and ties the head to the copy.
        chosen |= {embedding if full == head and _is_tied(model) else full: name for full in matching}
    for full, name in chosen.items():
        _check(name, full, modules[full], embedding, targets)
        inside = next((other for other in chosen if other.startswith(f"{full}.")), None)
        if inside is not None:
            raise UserError(f"{_KEY}: `{name}` already contains `{chosen[inside]}` ({inside}): name one.")
    return list(chosen)


def ties_embedding(model: PaliGemmaForConditionalGeneration, copied: Sequence[str]) -> bool:
    """Return whether one of the copied modules is the embedding whose weights `lm_head` shares."""
    embedding = model.get_input_embeddings()
    return _is_tied(model) and any(model.get_submodule(name) is embedding for name in copied)


def share_settings(model: PeftModel) -> None:
    """Let copies read the settings of the model itself, which say how all its layers attend.

    PEFT copies a module's settings with it: a kernel that is chosen later would not reach the copy.
    """
    for wrapper in model.modules():
        if not isinstance(wrapper, ModulesToSaveWrapper):
            continue
        for copied in wrapper.modules_to_save.values():
            for original, copy in zip(wrapper.original_module.modules(), copied.modules(), strict=True):
                if hasattr(original, "config"):
                    copy.config = original.config


def _is_tied(model: PaliGemmaForConditionalGeneration) -> bool:
    return bool(model.config.tie_word_embeddings)


def _check(name: str, full: str, module: nn.Module, embedding: str, targets: Sequence[str]) -> None:
    """Raise if a module cannot be copied as a whole."""
    adapted = [target for target in targets if target == full or target.startswith(f"{full}.")]
    if adapted:
        raise UserError(
            f"{_KEY}: `{name}` contains {len(adapted)} layers that get an adapter, such as {adapted[0]}. "
            "Leave it out, or keep these layers from getting one with freeze= or peft.target_modules."
        )
    if embedding.startswith(f"{full}."):
        raise UserError(
            f"{_KEY}: `{name}` contains the embedding, which shares its weights with lm_head and would no "
            "longer: name its parts, such as embed_tokens, or choose peft=none."
        )
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        raise UserError(f"{_KEY}: `{name}` is a list of modules, which PEFT cannot copy: name its parts.")
    if not any(True for _ in module.parameters()):
        raise UserError(f"{_KEY}: `{name}` ({full}) has no weights that could learn.")
    if any(not parameter.is_floating_point() for parameter in module.parameters()):
        raise UserError(
            f"{_KEY}: `{name}` ({full}) is quantized, so that it cannot learn itself: leave it out, or "
            "leave its tower out of peft.quantize."
        )
