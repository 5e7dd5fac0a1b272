"""The lite-mamba layer without PyTorch: numpy arrays over the C library `lite_mamba`.

    from lite_mamba_native import Cache, Layer

    layer = Layer.load("model.safetensors", "backbone.0")    # weights exported from PyTorch
    y = layer(x)                                             # (batch, seqlen, d_model), float32
    cache = Cache(layer, batch=1)
    y = layer.step(x[:, 0], cache)                           # (batch, d_model), token by token

Importing it loads the shared library: the file that the environment variable LITE_MAMBA_LIBRARY names, else
what the platform's loader finds, else what pkg-config knows. Without one it is an ImportError.
"""

from ._abi import Status
from ._cache import Cache, InferenceParams
from ._config import Config
from ._errors import (
    BufferTooSmallError,
    CudaError,
    FormatError,
    InternalError,
    InvalidArgumentError,
    InvalidConfigError,
    IoError,
    LiteMambaError,
    MissingFileError,
    NotFoundError,
    NullPointerError,
    OutOfMemoryError,
    ShapeMismatchError,
    UnsupportedError,
)
from ._layer import Layer
from ._library import build_info, cuda_available, library_version, set_num_threads
from ._tensors import Parameters, States, TensorInfo

__version__ = "0.1.0"

__all__ = [
    "BufferTooSmallError",
    "Cache",
    "Config",
    "CudaError",
    "FormatError",
    "InferenceParams",
    "InternalError",
    "InvalidArgumentError",
    "InvalidConfigError",
    "IoError",
    "Layer",
    "LiteMambaError",
    "MissingFileError",
    "NotFoundError",
    "NullPointerError",
    "OutOfMemoryError",
    "Parameters",
    "ShapeMismatchError",
    "States",
    "Status",
    "TensorInfo",
    "UnsupportedError",
    "build_info",
    "cuda_available",
    "library_version",
    "set_num_threads",
]
