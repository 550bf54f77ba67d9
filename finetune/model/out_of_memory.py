"""What a step that did not fit into the memory looks like, on a GPU and on a CPU."""

import torch

_OF_CPU = (
    "can't allocate memory",  # torch's allocator
    "not enough memory",  # the same on Windows
    "Cannot allocate memory",  # the system
    "std::bad_alloc",
    "could not create a memory object",  # oneDNN
    "could not create a primitive",  # the same, for its work space
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be allocated, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        any(words in text for words in _OF_CPU) or "out of memory" in text.lower()
    )
