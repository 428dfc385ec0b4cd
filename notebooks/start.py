"""What every notebook begins with: an empty folder to work in, and the program of this checkout on the path."""

import os
import pathlib
import shutil
import sys

from IPython.display import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]


def begin(name):
    """Makes `notebooks/work/NAME` anew and goes there."""
    folder = ROOT / "notebooks/work" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    # Modules beside the notebook are still found.
    sys.path.insert(0, str(ROOT / "notebooks"))
    os.environ["ROOT"] = str(ROOT)
    os.environ["PATH"] = f"{ROOT / 'target/debug'}{os.pathsep}{os.environ['PATH']}"


def show(picture, width):
    """A picture as it lies on the disk, that many pixels wide."""
    return Image(filename=picture, width=width)
