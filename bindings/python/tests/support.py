"""What the tests share: the golden files and how numbers are compared."""

import json
import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = sorted((ROOT / "tests/golden").glob("*.safetensors"))
#: The header of the installation under test.
HEADER = Path(os.environ.get("LITE_MAMBA_HEADER", ROOT / "include/lite_mamba.h")).read_text()


def read_safetensors(path):
    """The float32 tensors of a file by name, and its metadata."""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32"
        begin, end = (start + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return tensors, metadata


def relative_error(actual, expected):
    """max|a - b| / max|b|, which no NaN passes."""
    assert actual.shape == expected.shape
    if actual.size == 0:
        return 0.0
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return np.inf
    difference = np.abs(actual.astype(np.float64) - expected).max()
    return difference / (np.abs(expected).max() or 1.0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
