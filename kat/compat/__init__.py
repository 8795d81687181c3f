"""Runs code written for the published packages on this library.

After ``import kat.compat`` in a process, these modules are found in it, with the names, arguments
and state dicts of their authors, on every device:

- ``kat_rational``, also as ``rational_kat_cu.kat_rational``, and ``katransformer``;
- ``rational_kat`` (FlashKAT), ``rational.torch`` (rational-activations) and ``ikan.GroupKAN``.

Where one of these packages is installed, it is used, and a line on stderr says so;
``import kat.compat.force`` serves the names of ``kat_rational`` and ``rational_kat`` even then.
``python -m kat.compat script.py`` runs a script that is not to be edited, and
``kat compat PROJECT`` lists how each import of a project is served.

The initial functions are this library's presets: the authors' coefficients of GELU are off by up to
1.46 in their own kernel. A loaded state dict computes the same as in the authors' GPU kernels, with
Q = 1 + sum |b_j| |x|^j. Their code for CPUs (``KAT_Group_Torch``, and ``KAT_Group(device="cpu")``)
has Q = 1 + sum |b_j| x^j, which differs for x < 0: by up to 0.70 on [-6, 6] for their GELU. These
classes compute the function of the GPU kernels here, and say so in a warning.
"""

import sys

from kat.compat import serving
from kat.compat.kat_rational import MODES as MODES
from kat.compat.kat_rational import KAT_Group as KAT_Group
from kat.compat.kat_rational import KAT_Group2D as KAT_Group2D
from kat.compat.kat_rational import KAT_Group_Torch as KAT_Group_Torch
from kat.compat.kat_rational import RationalTriton1DGroup as RationalTriton1DGroup
from kat.compat.kat_rational import RationalTriton2D as RationalTriton2D
from kat.compat.kat_rational import group_rational as group_rational

sys.meta_path.insert(0, serving.FINDER)
