"""``.onnx`` files: standard operators only, for any ONNX runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from kat.deploy.export_record import KEY, PICTURES, ExportRecord
from kat.extras import needed_by
from kat.models.checkpoints.checksum import NO_CHECKSUM, verify_checksum, write_checksum
from kat.version import __version__

OPSET = 18
"""The first with antialiased Resize, for position embeddings; in onnxruntime since 1.14 (2023)."""
INPUT, OUTPUT = "images", "logits"
IMAGE = "image"
"""The input of detectors, and of classifiers with their preprocessing."""
CLASSES = "classes"
"""The output of names."""
THRESHOLD = "threshold"
"""An input of detectors: the least score."""


def write(program: ExportedProgram, record: ExportRecord, path: Path) -> None:
    """Write the program in one file, checked by ``onnx.checker``, with the record as metadata.

    Outputs have the names that the program gives them, or ``logits``. With its preprocessing, a
    classifier returns ``classes`` by name, the most likely first, and their ``probabilities``.
    """
    outputs = program.call_spec.out_spec
    names = list(outputs.context) if outputs.type is dict else [OUTPUT]
    with warnings.catch_warnings(action="ignore"):
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=[IMAGE if record.task == PICTURES else INPUT],
            output_names=names,
        )
    proto = exported.model_proto
    if record.task == PICTURES:
        _name_classes(proto.graph, record.model.classes)
    else:
        _name_dimensions(proto.graph, resizable=record.step is not None)
    save_proto(proto, record, path)


def save_proto(proto: Any, record: ExportRecord, path: Path) -> None:
    """Check an ONNX model by ``onnx.checker``, and write it with the record and a checksum.

    Both are metadata. The notes of the exporter, most of a small file, are left out.
    """
    import onnx

    graph = proto.graph
    graph.ClearField("value_info")
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
    proto.producer_name, proto.producer_version = "kat", __version__
    onnx.helper.set_model_props(proto, {KEY: record.to_json(), "sha256": NO_CHECKSUM})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    write_checksum(path)


def _name_dimensions(graph: Any, *, resizable: bool) -> None:
    """Name the dynamic dimensions of the images, and the batch dimension of the outputs."""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    if resizable:
        _, _, height, width = graph.input[0].type.tensor_type.shape.dim
        height.dim_param, width.dim_param = "height", "width"


def _name_classes(graph: Any, classes: list[str]) -> None:
    """Return classes by name in place of indices."""
    import onnx

    names = onnx.numpy_helper.from_array(np.array(classes, dtype=object), "names")
    graph.initializer.append(names)
    graph.node.append(onnx.helper.make_node("Gather", ["names", "indices"], [CLASSES]))
    graph.output[0].name = CLASSES
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.STRING


@needed_by("an ONNX file")
def read_record(path: Path) -> ExportRecord:
    """Return the record, without loading the model."""
    import onnx

    if not verify_checksum(path):
        return ExportRecord.from_json(None, str(path))
    proto = onnx.load(path, load_external_data=False)
    props = {entry.key: entry.value for entry in proto.metadata_props}
    return ExportRecord.from_json(props.get(KEY), str(path))


@needed_by("an ONNX file")
def read(path: Path) -> tuple[Callable[..., Any], ExportRecord]:
    """Return the model in onnxruntime, on the CPU with torch's number of threads, and the record.

    The function takes the images, and for a detector a threshold. It returns ``logits``, or other
    numbers by name.

    Raises:
        InputError: onnxruntime is not installed; the file does not exist, is damaged, or was not
            written by 'kat export'.
    """
    import onnxruntime

    record = read_record(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image_name = session.get_inputs()[0].name
    outputs = [x.name for x in session.get_outputs() if x.name != CLASSES]

    def run(images: Tensor, threshold: Tensor | None = None) -> Any:
        feed = {image_name: images.numpy()}
        if threshold is not None:
            feed[THRESHOLD] = threshold.numpy()
        computed = [torch.from_numpy(array) for array in session.run(outputs, feed)]
        return computed[0] if outputs == [OUTPUT] else dict(zip(outputs, computed, strict=True))

    return run, record
