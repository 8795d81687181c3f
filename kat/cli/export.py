"""``kat export``: a trained model as a file, or a folder of the Hub's, that runs elsewhere."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from kat.cli.parsing import Formatter, Parser, run_command
from kat.deploy import (
    DETECTIONS_TOLERANCE,
    FILE_FORMATS,
    TOLERANCE,
    Exported,
    FeatureMaps,
    export_model,
    make_resizable,
)
from kat.deploy.training_record import training_record
from kat.errors import InputError, unknown
from kat.models import load_model, push_to_hub, save_pretrained
from kat.text import scaled

_DESCRIPTION = f"""\
Writes a trained model in a form that runs elsewhere, with its classes and preprocessing inside:

  pt2          a torch.export program; loads in any PyTorch program, which need not have kat
  onnx         ONNX, standard operators alone
  safetensors  a folder of model.safetensors, config.json and README.md (a model card), timm's
               format on the Hugging Face Hub; loads in timm and transformers after 'import kat'

A .pt2 or .onnx file takes batches of any size. It is run beside the model before it is kept, and
refused where its logits are more than {TOLERANCE:.0e} from the model's, relative to the largest.
'kat predict' and 'kat eval' take all three as --checkpoint. ONNX and --int8 need
  pip install "kolmogorov-arnold-transformer[export]"

A detector goes into ONNX alone, for one image of its size; boxes, relative to that, scores and
masks agree to {DETECTIONS_TOLERANCE:.0e}. --backbone leaves away the heads of detectors and of
segmentation models: the file gives features, and 'kat predict' and 'kat eval' refuse it.

examples:
  kat export runs/digits --out digits.onnx
  kat export runs/digits --out digits.pt2 --int8
  kat export runs/mine --out mine.onnx --dynamic_size     images of any size the patches divide
  kat export runs/detector --out detector.onnx            boxes, labels, scores, masks of an image
  kat export runs/detector --out features.pt2 --backbone  stride_4, stride_8, ...
  kat export runs/mine --out mine --license mit --push_to OWNER/mine"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, exports, prints a line."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    out = Path(parsed.out)
    kind = parsed.format or _format_of(out)
    if kind not in (*FILE_FORMATS, "safetensors"):
        raise unknown("format", kind, (*FILE_FORMATS, "safetensors"))
    if kind == "safetensors":
        _export_folder(parsed, out)
    else:
        _export_file(parsed, out, kind)


def make_parser() -> Parser:
    """The parser of ``kat export``."""
    parser = Parser(prog="kat export", description=_DESCRIPTION, formatter_class=Formatter)
    parser.add_argument("model", help="a run's folder, its model folder, or a .ckpt file")
    parser.add_argument("--out", required=True, help="the file; of safetensors, the folder")
    parser.add_argument(
        "--format",
        type=str | None,
        help="pt2, onnx or safetensors; by default what --out ends in, safetensors if in none",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="hold the weights of linear maps in int8: a quarter of the size",
    )
    parser.add_argument(
        "--dynamic_size", action="store_true", help="let .pt2 and ONNX take images of any size"
    )
    parser.add_argument(
        "--backbone",
        action="store_true",
        help="of a detector or a segmentation model the transformer with its pyramid alone",
    )
    parser.add_argument("--license", type=str | None, help="of the weights, for the model card")
    parser.add_argument(
        "--push_to", type=str | None, help="also upload the folder to this repository of the Hub"
    )
    parser.add_argument("--private", action="store_true", help="make that repository private")
    return parser


def _format_of(out: Path) -> str:
    ending = out.suffix.removeprefix(".")
    if ending in FILE_FORMATS:
        return ending
    if ending.isalpha():
        known = ", ".join(f".{name}" for name in FILE_FORMATS)
        raise InputError(
            f"no format for --out {out.name!r}: a file ends in one of {known}; for a folder named"
            " so, add --format safetensors"
        )
    return "safetensors"


def _refuse(parsed: Namespace, kind: str, *options: str) -> None:
    for option in options:
        if getattr(parsed, option):
            raise InputError(f"--{option} is not for --format {kind}")


def _export_file(parsed: Namespace, out: Path, kind: str) -> None:
    _refuse(parsed, kind, "license", "push_to", "private")
    if out.suffix != f".{kind}":
        raise InputError(f"--out must end in .{kind} for --format {kind}, got {out.name!r}")
    model, record = load_model(Path(parsed.model))
    if parsed.dynamic_size:
        model = make_resizable(model, record)
    if parsed.backbone:
        model = FeatureMaps(model)
    exported = export_model(model, record, out, int8=parsed.int8)
    sys.stdout.write(_summary(exported) + "\n")


def _summary(exported: Exported) -> str:
    record = exported.record
    takes = "one image" if record.task == "detection" else "any batch size"
    of = "the int8 model's" if exported.moved else "the model's"
    lines = [
        f"{exported.path}: {scaled(exported.size, 'B')}, {takes};"
        f" {record.outputs} within {exported.error:.1e} of {of} on noise"
    ]
    if record.step is not None:
        lines.append(f"images of any multiple of {record.step[0]} x {record.step[1]} pixels")
    if exported.moved:
        lines.append(f"int8 moves the {record.outputs} by {exported.moved:.1e}{_meaning(exported)}")
    return "\n".join(lines)


def _meaning(exported: Exported) -> str:
    if exported.record.task == "features":
        return ""
    return (
        "; what that means for the accuracy, say"
        f" 'kat eval --checkpoint {exported.path} --data.name ...'"
    )


def _export_folder(parsed: Namespace, out: Path) -> None:
    _refuse(parsed, "safetensors", "int8", "dynamic_size", "backbone")
    source = Path(parsed.model)
    model, record = load_model(source)
    training = training_record(source)
    save_pretrained(model, record, out, training=training, license=parsed.license)
    sys.stdout.write(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}\n")
    if parsed.push_to:
        address = push_to_hub(
            model,
            record,
            parsed.push_to,
            training=training,
            license=parsed.license,
            private=parsed.private,
        )
        sys.stdout.write(f"pushed: {address}\n")
