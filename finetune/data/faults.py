"""What is wrong in the data: an error at once, or with `on_error=skip` a line in a list."""

from collections.abc import Iterator
from contextlib import contextmanager

from finetune.errors import UserError

_REMEDY = " Or leave out what is wrong: dataset.on_error=skip."


class Faults:
    """Collects what a reader leaves out.

    A reader puts each row, and each object of a row, that may be refused into its own block::

        for line in lines:
            with faults.skipping():
                yield convert(line)  # raises UserError where it cannot be used

    Args:
        skip: go on behind a fault, instead of raising it.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.found: list[str] = []

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Leave the block at a fault and list it.

        Raises:
            UserError: the block's own, unless faults are skipped.
        """
        try:
            yield
        except UserError as error:
            if self.skip:
                self.found.append(str(error))
            elif str(error).endswith(_REMEDY):  # a block inside this one has said so
                raise
            else:
                raise UserError(f"{error}{_REMEDY}") from error
