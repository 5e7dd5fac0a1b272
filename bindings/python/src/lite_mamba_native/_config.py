"""The configuration of a layer."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from . import _abi
from ._library import check, lib
from ._values import DTYPES, DTypeLike, dtype_name, integer, size

Variant = Literal["PTCN", "STCN", "DPWC", "Baseline"]
DType = Literal["float32", "float64", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]
Math = Literal["default", "tf32"]
DtInit = Literal["random", "constant"]

#: The enumerated fields: the library's value of each text.
TEXTS: dict[str, Mapping[str, int]] = {
    "variant": {
        "PTCN": _abi.Variant.PTCN,
        "STCN": _abi.Variant.STCN,
        "DPWC": _abi.Variant.DPWC,
        "Baseline": _abi.Variant.BASELINE,
    },
    "dtype": DTYPES,
    "device": {"cpu": _abi.Device.CPU, "cuda": _abi.Device.CUDA},
    "math": {"default": _abi.Math.DEFAULT, "tf32": _abi.Math.TF32},
    "dt_init": {"random": _abi.DtInit.RANDOM, "constant": _abi.DtInit.CONSTANT},
}
_SIZES = ("d_model", "d_state", "d_conv")
_NUMBERS = ("expand", "dt_min", "dt_max", "dt_scale", "dt_init_floor")
_FLAGS = ("conv_bias", "bias", "use_fast_path")


@dataclass(frozen=True)
class Config:
    """What a layer is made from: the arguments of the reference's constructors, and what the library adds.

    Names, order and defaults are those of the Python package lite-mamba. The configuration that the exporter
    writes into a file's metadata is one too: `Config(**json.loads(...))`. The library checks the values when
    a layer is made.
    """

    #: Width of the input and the output.
    d_model: int
    #: States per channel.
    d_state: int = 16
    #: Taps of each convolution.
    d_conv: int = 4
    #: One dilation for each branch; a Baseline layer has one branch of dilation 1.
    conv_dilations: Sequence[int] = (1,)
    #: The inner width d_inner is expand * d_model, truncated.
    expand: float = 2
    #: Rank of the projection of the time step; "auto" is d_model / 16, rounded up.
    dt_rank: int | Literal["auto"] = "auto"
    #: Smallest initial time step.
    dt_min: float = 0.001
    #: Largest initial time step.
    dt_max: float = 0.1
    #: How `dt_proj.weight` starts.
    dt_init: DtInit = "random"
    #: Scale of the initial `dt_proj.weight`.
    dt_scale: float = 1.0
    #: Lower bound of the initial time step.
    dt_init_floor: float = 1e-4
    #: Whether the depthwise convolutions have a bias.
    conv_bias: bool = True
    #: Whether `in_proj` and `out_proj` have a bias.
    bias: bool = False
    #: Without effect, as in the reference.
    use_fast_path: bool = False
    #: The layer's number in its model, for `InferenceParams`.
    layer_idx: int | None = None
    #: Where the layer lives.
    device: Device = "cpu"
    #: Storage type of the parameters: its name, or the type as numpy or PyTorch has it. Arithmetic is in
    #: float32, for "float64" in that. A layer of 16 bits keeps `A_log`, `D` and `conv_gates` in float32.
    dtype: DType | DTypeLike = "float32"
    #: Which of the reference's classes: PTCNMamba, STCNMamba, DPWCMamba or BaselineMamba.
    variant: Variant = "PTCN"
    #: Which GPU.
    device_index: int = 0
    #: The arithmetic of matrix products on a GPU.
    math: Math = "default"
    #: Of the initial values: those that PyTorch gives after `torch.manual_seed(seed)`.
    seed: int = 0

    def __post_init__(self) -> None:
        # A list from JSON makes the same configuration as a tuple.
        object.__setattr__(self, "conv_dilations", tuple(self.conv_dilations))
        # As does a type as its name.
        object.__setattr__(self, "dtype", dtype_name(self.dtype) or self.dtype)


def to_c(config: Config) -> _abi.Config:
    """The library's struct. ctypes would cut a number that does not fit a field: none comes that far."""
    raw = _abi.Config()
    check(lib.lm_config_init(raw, ctypes.sizeof(raw)))

    for name in _SIZES:
        setattr(raw, name, size(name, getattr(config, name)))
    for name in _FLAGS:
        setattr(raw, name, bool(getattr(config, name)))
    for name in _NUMBERS:
        value = getattr(config, name)
        try:
            setattr(raw, name, value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}; it must be a number") from None
    for name, values in TEXTS.items():
        text = getattr(config, name)
        if text not in values:
            raise ValueError(f"{name} is {text!r}; it must be one of {', '.join(values)}")
        setattr(raw, name, values[text])

    dilations = [size(f"conv_dilations[{i}]", d) for i, d in enumerate(config.conv_dilations)]
    raw.conv_dilations = (ctypes.c_size_t * len(dilations))(*dilations)
    raw.num_conv_dilations = len(dilations)
    if config.dt_rank != "auto":
        # 0 is the library's "auto".
        raw.dt_rank = size("dt_rank", config.dt_rank, 1)
    if config.layer_idx is not None:
        raw.layer_idx = integer("layer_idx", config.layer_idx, 0, 2**63 - 1)
    raw.device_index = integer("device_index", config.device_index, 0, 2**32 - 1)
    # torch.manual_seed takes negative numbers too, as their two's complement.
    raw.seed = integer("seed", config.seed, -(2**63), 2**64 - 1) % 2**64
    return raw


def from_c(raw: _abi.Config) -> Config:
    """The configuration of a layer, as the library has resolved it."""
    fields: dict[str, Any] = {}
    for name in (*_SIZES, *_NUMBERS, *_FLAGS, "dt_rank", "device_index", "seed"):
        fields[name] = getattr(raw, name)
    for name, values in TEXTS.items():
        value = getattr(raw, name)
        fields[name] = next((text for text, v in values.items() if v == value), value)
    fields["conv_dilations"] = raw.conv_dilations[: raw.num_conv_dilations]
    fields["layer_idx"] = None if raw.layer_idx < 0 else raw.layer_idx
    return Config(**fields)
