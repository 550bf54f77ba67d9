"""The socket for dataset, task and metric: what `_target_` names, called with the other values."""

import inspect
from dataclasses import asdict, is_dataclass
from typing import Any

from hydra.utils import get_object

from finetune.errors import UserError


def call_target(node: Any) -> Any:
    """Call what `_target_` names with the node's other values: how a user's own part is plugged in.

    Args:
        node: a dataclass of the schema, or the dictionary of a user's own choice.

    Raises:
        UserError: there is no such function or class, or it takes other arguments.
    """
    values = asdict(node) if is_dataclass(node) and not isinstance(node, type) else dict(node)
    target = values.pop("_target_")
    try:
        function = get_object(target)
        inspect.signature(function).bind(**values)
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(f"_target_={target} cannot be called: {error}") from error
    return function(**values)
