"""The file formats of exported models.

A format is a module with ``write(program, record, path)``, ``read(path)``, which returns the
program as a function and the record, and ``read_record(path)``, which loads no program. Not in the
table are ``detector_onnx``, and ``transformers_folder``, whose result is a folder that kat does not
read.
"""

from kat.deploy.formats import onnx, pt2

FORMATS = {"pt2": pt2, "onnx": onnx}
"""The formats by the ending of their files."""
FILE_FORMATS = tuple(FORMATS)
"""The endings of exported files."""
PROGRAMS = ("pt2",)
"""The formats whose files run code of their author's when they are opened."""
