"""The parts of gpu_report.py: its steps, what runs them, and the page."""

import os
import sys

if "--stand-in" in sys.argv:  # read when Triton is imported, which timm does
    os.environ["TRITON_INTERPRET"] = "1"

import timing  # noqa: F401  (finds kat in a checkout that is not installed)
