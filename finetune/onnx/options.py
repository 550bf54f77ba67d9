"""What `export` writes; nothing heavy is imported here, because help reads it."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """Formats of an export."""

    onnx = "onnx"


class ExportDtype(StrEnum):
    """Formats of the exported weights, as Transformers.js names them."""

    fp32 = "fp32"
    q8 = "q8"

    @property
    def suffix(self) -> str:
        """What Transformers.js adds to the names of the files."""
        return "_quantized" if self is ExportDtype.q8 else ""
