"""Makes the golden files of the golden-file reader: python make.py"""

import json
import pathlib

import numpy
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent
(here / "pair.json").write_text(json.dumps([0.5, [1, 2]]) + "\n")
save_file(
    {"a": numpy.array([[1.5], [-2.0]], numpy.float32), "n": numpy.array([7, 8, -9], numpy.int64)},
    here / "two.safetensors",
)
