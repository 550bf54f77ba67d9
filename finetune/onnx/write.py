"""Graphs to ONNX files, with the names that Transformers.js looks for."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from finetune.onnx.graphs import Graph
from finetune.onnx.options import ExportDtype

MOST_BYTES = 1_900_000_000
"""Of one file: protobuf ends at 2 GiB, and so do many browsers' buffers. A tensor is never divided."""

_QUANTIZED = ["MatMul", "Gather"]
"""Products with weights, and the embedding. SigLIP's only convolution stays: per-tensor bytes lose too much
of the pixels, for a thousandth of the file."""


def write_graph(
    graph: Graph, folder: Path, dtype: ExportDtype, most_bytes: int = MOST_BYTES
) -> tuple[Path, int]:
    """Export one graph.

    Args:
        graph: see `build_graphs`.
        folder: where the files go.
        dtype: `q8`: weights in 8 bits, one scale for each output channel; activations are quantized when
            the graph runs.
        most_bytes: of weights in one file.

    Returns:
        The file, and the number of files next to it with its weights: 0 if they are inside.
    """
    plain = folder / f"{graph.name}.onnx"
    with _quiet():
        program = torch.onnx.export(
            graph.module.eval(),
            graph.arguments,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=graph.dynamic_shapes,
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:  # only where a file is given
        raise RuntimeError(f"torch.onnx.export returned nothing for {graph.name}.")
    parts = _save(program.model, plain, most_bytes)
    if dtype == ExportDtype.fp32:
        return plain, parts
    del program
    target = folder / f"{graph.name}{dtype.suffix}.onnx"
    parts = _quantize(plain, target, most_bytes)
    for file in (plain, *name_parts(plain, MOST_PARTS)):
        file.unlink(missing_ok=True)
    return target, parts


_OPSET = 20
"""Every operator of it runs in ONNX Runtime's WebAssembly."""

MOST_PARTS = 100
"""Most files with the weights of a graph that Transformers.js reads."""


def name_parts(file: Path, count: int) -> list[Path]:
    """Return the files with the weights of a graph, as Transformers.js names them."""
    return [file.with_name(f"{file.name}_data{f'_{number}' if number else ''}") for number in range(count)]


def _save(model: onnx_ir.Model, file: Path, most_bytes: int) -> int:
    """Write a model, with its weights in files of their own if they are too many for one."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    if sum(tensor.nbytes for tensor in tensors if tensor is not None) <= most_bytes:
        onnx_ir.save(model, file)
        return 0
    onnx_ir.save(model, file, external_data=f"{file.stem}.weights", max_shard_size_bytes=most_bytes)
    written = sorted(file.parent.glob(f"{file.stem}*.weights"))
    names = dict(zip((part.name for part in written), name_parts(file, len(written)), strict=True))
    proto = onnx.load(file, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names[entry.value].name
    onnx.save(proto, file)
    for part in written:
        part.rename(names[part.name])
    return len(written)


def _quantize(source: Path, target: Path, most_bytes: int) -> int:
    """Write a model with weights of 8 bits."""
    partial = target.with_suffix(".partial")
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises a preparation that the export has done
    try:
        quantize_dynamic(
            source,
            partial,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=source.stat().st_size > most_bytes
            or name_parts(source, 1)[0].exists(),
        )
    finally:
        logger.setLevel(level)
    parts = _save(onnx_ir.load(partial), target, most_bytes)
    for file in (partial, Path(f"{partial}.data")):
        file.unlink(missing_ok=True)
    return parts


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch says about its own use of torch while it exports."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
