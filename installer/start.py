"""Where the frozen program begins."""

import os

from agent import main

# PyInstaller set it so that our own libraries are found, which know their places by themselves (`libraries.py`). What
# we start would take them for the system's: drivers, and the programs of the system.
if (before := os.environ.pop("LD_LIBRARY_PATH_ORIG", None)) is not None:
    os.environ["LD_LIBRARY_PATH"] = before
else:
    os.environ.pop("LD_LIBRARY_PATH", None)

main()
