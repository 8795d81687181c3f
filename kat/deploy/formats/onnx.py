"""``.onnx`` files: standard operators alone, for any ONNX runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from kat.deploy.packages import require
from kat.deploy.program import quiet_warnings
from kat.deploy.stored_record import KEY, StoredRecord
from kat.errors import InputError
from kat.text import scaled
from kat.version import __version__

OPSET = 18
"""The first with the antialiased Resize of position embeddings; onnxruntime 1.14 (2023) has it."""
INPUT, OUTPUT = "images", "logits"
_LIMIT = 2**31
"""Protobuf's own limit on a message."""
_ERROR = 3
"""onnxruntime's level; below it, it says of an input that may be left out that this costs speed."""


def write_onnx(program: ExportedProgram, record: StoredRecord, path: Path) -> None:
    """Writes the program in one file, checked by ``onnx.checker``, with the record in its metadata.

    Outputs are named as the program names them, or ``logits`` if it does not.

    Raises:
        InputError: onnx or onnxscript is not installed, or the model does not fit in 2 GB.
    """
    require("onnx", "ONNX export")
    require("onnxscript", "ONNX export")
    check_size(program.state_dict)
    given = program.call_spec.out_spec
    names = list(given.context) if given.type is dict else [OUTPUT]
    with quiet_warnings():
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=[INPUT],
            output_names=names,
        )
    proto = exported.model_proto
    _name_dims(proto.graph, resizable=record.step is not None)
    save_proto(proto, record, path)


def check_size(weights: Mapping[str, Any]) -> None:
    """Checks that weights fit in one ONNX file.

    Raises:
        InputError: they do not.
    """
    size = sum(tensor.nbytes for tensor in weights.values())
    if size >= _LIMIT:
        raise InputError(
            f"the weights are {scaled(size, 'B')}, and an ONNX file holds 2; export to .pt2"
        )


def save_proto(proto: Any, record: StoredRecord, path: Path) -> None:
    """Writes an ONNX model with the record in its metadata, without what its exporter noted.

    These notes are most of a small file. The model is checked by ``onnx.checker``.
    """
    onnx = require("onnx", "ONNX export")
    graph = proto.graph
    graph.ClearField("value_info")
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
    proto.producer_name, proto.producer_version = "kat", __version__
    onnx.helper.set_model_props(proto, {KEY: record.to_json()})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())


def _name_dims(graph: Any, *, resizable: bool) -> None:
    """Names the free dimensions of the images, and the batch of what is said of them."""
    names = ["batch", None, "height", "width"] if resizable else ["batch"]
    for value, named in ((graph.input[0], names), *((one, names[:1]) for one in graph.output)):
        for dim, name in zip(value.type.tensor_type.shape.dim, named, strict=False):
            if name:
                dim.dim_param = name


def read_onnx(path: Path) -> tuple[Callable[..., Any], StoredRecord]:
    """The model in onnxruntime, on the CPU with torch's number of threads, and the record.

    It takes the inputs in their order, and gives ``logits``, or what else it has by name.

    Raises:
        InputError: onnxruntime is not installed; the file is missing, damaged, or not an export
            of kat's.
    """
    runtime = require("onnxruntime", "an ONNX file")
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERROR
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class but this
        reason = str(error).splitlines()[0]
        raise InputError(f"onnxruntime cannot load {path}: {reason}") from None
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    record = StoredRecord.from_json(text, str(path))

    inputs = [x.name for x in (*session.get_inputs(), *session.get_overridable_initializers())]
    outputs = [x.name for x in session.get_outputs()]

    def run(*given: Tensor) -> Any:
        feed = {name: x.numpy() for name, x in zip(inputs, given, strict=False)}
        answers = [torch.from_numpy(answer) for answer in session.run(outputs, feed)]
        return answers[0] if outputs == [OUTPUT] else dict(zip(outputs, answers, strict=True))

    return run, record
