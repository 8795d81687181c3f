"""``kat export``: write a trained model in a form that runs elsewhere.

The ending of --out chooses the format. Every format holds the classes and the preprocessing, too:

  .pt2         a torch.export program; loads in any PyTorch program, without kat
  .onnx        ONNX, standard operators only
  no ending    a folder of model.safetensors, config.json and README.md (a model card) in timm's
               format for the Hugging Face Hub; loads in timm and transformers after 'import kat'.
               With --format transformers it holds the code of the model in place of the card,
               and loads in transformers without kat, with trust_remote_code=True

A .pt2 or .onnx file takes batches of any size. The command compares the outputs of the file with
the outputs of the model, and keeps the file only if they agree (docs/deployment.md). 'kat predict'
and 'kat eval' take all formats but a folder for transformers and a file --with-preprocessing. ONNX,
--int8 and --format transformers need
  pip install "kolmogorov-arnold-transformer[export]"

With --with-preprocessing the .onnx file of a classifier takes one picture of any size, as uint8 of
height x width x 3. It resizes, crops and normalizes the picture as 'kat predict' does, and returns
the names of the classes, the most likely first, and their probabilities.

A detector is exported to ONNX only. Its file takes one image of any size and returns boxes in the
pixels of the image, scores and masks. --backbone leaves out the heads of a detector or a
segmentation model: the file returns features, and 'kat predict' and 'kat eval' refuse it.

examples:
  kat export runs/digits --out digits.onnx
  kat export runs/mine --out mine.onnx --with-preprocessing    a picture in, classes out
  kat export runs/digits --out digits.pt2 --int8
  kat export runs/mine --out mine.onnx --dynamic-size     images of any multiple of the patches
  kat export runs/detector --out detector.onnx            boxes, labels, scores, masks of an image
  kat export runs/detector --out features.pt2 --backbone   stride_4, stride_8, ...
  kat export runs/mine --out mine --license mit           then: hf upload OWNER/mine mine
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import kat
from kat.cli.options.parser import Parser, refuse_options
from kat.text import say, say_all, scaled

_OF_FILES = ("int8", "dynamic_size", "backbone", "with_preprocessing")


def main(arguments: list[str]) -> None:
    """Export, print a line."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    out: Path = options.out
    ending = out.suffix.removeprefix(".")
    is_file = ending.isalpha() or ending in kat.deploy.FILE_FORMATS
    if is_file:
        refuse_options(parser, options, ["license", "format"], f"on a .{ending} file")
        if options.with_preprocessing:
            refuse_options(parser, options, ["dynamic_size"], "beside --with-preprocessing")
        _export_file(options, out)
        return
    refuse_options(parser, options, _OF_FILES, "on a folder")
    to_transformers = options.format == "transformers"
    if to_transformers:
        refuse_options(parser, options, ["license"], "on a folder for transformers")
    model, record = kat.models.load_model(options.run)
    if to_transformers:
        kat.deploy.export_transformers(model, record, out)
    else:
        training = kat.deploy.training_record(options.run)
        kat.models.save_pretrained(model, record, out, training=training, license=options.license)
    say(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def make_parser() -> Parser:
    """Return the parser of ``kat export``."""
    parser = Parser(__doc__, "RUN")
    add = parser.add
    parser.add_common("run")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="a .pt2 or .onnx file, or a folder for safetensors",
    )
    add(
        "--format",
        choices=("timm", "transformers"),
        metavar="NAME",
        help="format of a folder: timm's (default), or transformers', which loads without kat",
    )
    add(
        "--int8",
        action="store_true",
        help="store the weights of linear layers in int8: about a third of the size",
    )
    add("--dynamic-size", action="store_true", help="make .pt2 and ONNX take images of any size")
    add(
        "--with-preprocessing",
        action="store_true",
        help="make the ONNX file of a classifier take a picture and return classes",
    )
    add(
        "--backbone",
        action="store_true",
        help="export only the transformer with its pyramid, of a detector or segmentation model",
    )
    add("--license", metavar="NAME", help="license of the weights, for the model card")
    return parser


def _export_file(options: Namespace, out: Path) -> None:
    from kat.training.evaluation.run_data import settings_of_run

    model, record = kat.models.load_model(options.run)
    if options.dynamic_size:
        model = kat.deploy.make_resizable(model, record)
    if options.backbone:
        model = kat.deploy.FeatureMaps(model)
    if options.with_preprocessing:
        model = kat.deploy.WithPreprocessing(model, record)
    run = settings_of_run(options.run)
    exported = kat.deploy.export_model(model, record, out, int8=options.int8, run=run)
    say_all(_summary(exported))


def _summary(exported: kat.deploy.Exported) -> list[str]:
    record = exported.record
    takes = "one image of any size" if record.resizes else "any batch size"
    lines = [
        f"{exported.path}: {scaled(exported.size, 'B')}, {takes};"
        f" {record.outputs} within {exported.error:.1e} of PyTorch's on noise"
    ]
    if record.step is not None:
        lines.append(f"images of any multiple of {record.step[0]} x {record.step[1]} pixels")
    if exported.moved:
        lines.append(
            f"int8 moves the {record.outputs} by {exported.moved:.1e}: 'kat eval' measures what"
            " that costs"
        )
    return lines
