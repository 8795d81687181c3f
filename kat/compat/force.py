"""Serves ``kat_rational`` and ``rational_kat`` in the place of packages that have these names.

``import kat.compat.force`` does so from then on, for copies in other packages too, such as
``models.kat_rational``. ``python -m kat.compat.force script.py`` runs a script so.
"""

from kat.compat import serving
from kat.compat.__main__ import main

serving.FINDER.forced = True
if __name__ == "__main__":
    main()
