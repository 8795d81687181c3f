"""``.onnx`` files: standard operators alone, for any ONNX runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from kat.deploy.packages import require
from kat.deploy.program import quiet_warnings
from kat.deploy.stored_record import KEY, StoredRecord
from kat.errors import InputError
from kat.version import __version__

OPSET = 18
"""The first with the antialiased Resize of position embeddings; onnxruntime 1.14 (2023) has it."""
INPUT, OUTPUT = "images", "logits"
_LIMIT = 2**31
"""Protobuf's own limit on a message."""


def write_onnx(program: ExportedProgram, record: StoredRecord, path: Path) -> None:
    """Writes the program in one file, checked by ``onnx.checker``, with the record in its metadata.

    Raises:
        InputError: onnx or onnxscript is not installed, or the model does not fit in 2 GB.
    """
    onnx = require("onnx", "ONNX export")
    require("onnxscript", "ONNX export")
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size >= _LIMIT:
        raise InputError(
            f"the weights are {size / 1e9:.1f} GB, and an ONNX file holds 2; export to .pt2"
        )
    with quiet_warnings():
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    proto = exported.model_proto
    _tidy(proto.graph, resizable=record.step is not None)
    proto.producer_name, proto.producer_version = "kat", __version__
    onnx.helper.set_model_props(proto, {KEY: record.to_json()})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())


def _tidy(graph: Any, *, resizable: bool) -> None:
    """Names the free dimensions, and removes the tracer's notes, which are most of a small file."""
    graph.ClearField("value_info")
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
    names = ["batch", None, "height", "width"] if resizable else ["batch"]
    for value, named in ((graph.input[0], names), (graph.output[0], names[:1])):
        for dim, name in zip(value.type.tensor_type.shape.dim, named, strict=False):
            if name:
                dim.dim_param = name


def read_onnx(path: Path) -> tuple[Callable[[Tensor], Tensor], StoredRecord]:
    """The model in onnxruntime, on the CPU with torch's number of threads, and the record.

    Raises:
        InputError: onnxruntime is not installed; the file is missing, damaged, or not an export
            of kat's.
    """
    runtime = require("onnxruntime", "an ONNX file")
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class but this
        reason = str(error).splitlines()[0]
        raise InputError(f"onnxruntime cannot load {path}: {reason}") from None
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    record = StoredRecord.from_json(text, str(path))

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return run, record
