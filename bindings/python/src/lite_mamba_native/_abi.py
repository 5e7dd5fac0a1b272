"""What `lite_mamba.h` declares, as ctypes: values, structs and prototypes.

The tests hold every line of it against the header.
"""

from __future__ import annotations

import ctypes
import enum
from ctypes import (
    POINTER,
    c_bool,
    c_char,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any

#: LM_ABI_VERSION of the header that this was written from.
ABI_VERSION = 1


class Status(enum.IntEnum):
    """What a function of the library returns. A later version of the library may have more."""

    OK = 0
    NULL_POINTER = 1
    INVALID_CONFIG = 2
    INVALID_ARGUMENT = 3
    SHAPE_MISMATCH = 4
    UNSUPPORTED = 5
    NOT_FOUND = 6
    IO = 7
    FORMAT = 8
    OUT_OF_MEMORY = 9
    BUFFER_TOO_SMALL = 10
    CUDA = 11
    INTERNAL = 12


class Variant(enum.IntEnum):
    """`lm_variant`."""

    PTCN = 0
    STCN = 1
    DPWC = 2
    BASELINE = 3


class DType(enum.IntEnum):
    """`lm_dtype`."""

    DEFAULT = 0
    F32 = 1
    F64 = 2
    BF16 = 3
    F16 = 4


class Device(enum.IntEnum):
    """`lm_device`."""

    CPU = 0
    CUDA = 1


class Math(enum.IntEnum):
    """`lm_math`."""

    DEFAULT = 0
    TF32 = 1


class DtInit(enum.IntEnum):
    """`lm_dt_init`."""

    RANDOM = 0
    CONSTANT = 1


class Config(ctypes.Structure):
    """`lm_config`."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("variant", c_uint32),
        ("dtype", c_uint32),
        ("d_model", c_size_t),
        ("d_state", c_size_t),
        ("d_conv", c_size_t),
        ("conv_dilations", POINTER(c_size_t)),
        ("num_conv_dilations", c_size_t),
        ("expand", c_double),
        ("dt_rank", c_size_t),
        ("dt_min", c_double),
        ("dt_max", c_double),
        ("dt_scale", c_double),
        ("dt_init_floor", c_double),
        ("dt_init", c_uint32),
        ("conv_bias", c_bool),
        ("bias", c_bool),
        ("use_fast_path", c_bool),
        ("layer_idx", c_int64),
        ("device", c_uint32),
        ("device_index", c_uint32),
        ("math", c_uint32),
        ("seed", c_uint64),
    )


class TensorInfo(ctypes.Structure):
    """`lm_tensor_info`."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("name", c_char * 64),
        ("dtype", c_uint32),
        ("weight_decay", c_bool),
        ("ndim", c_size_t),
        ("shape", c_size_t * 4),
        ("count", c_size_t),
    )


class DLDevice(ctypes.Structure):
    """DLPack's `DLDevice`."""

    _fields_ = (("device_type", c_int32), ("device_id", c_int32))


class DLDataType(ctypes.Structure):
    """DLPack's `DLDataType`."""

    _fields_ = (("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16))


class DLTensor(ctypes.Structure):
    """DLPack's `DLTensor`."""

    _fields_ = (
        ("data", c_void_p),
        ("device", DLDevice),
        ("ndim", c_int32),
        ("dtype", DLDataType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class DLPackVersion(ctypes.Structure):
    """DLPack's `DLPackVersion`."""

    _fields_ = (("major", c_uint32), ("minor", c_uint32))


class DLManagedTensorVersioned(ctypes.Structure):
    """DLPack's `DLManagedTensorVersioned`. A `DLManagedTensor` begins with its tensor."""

    _fields_ = (
        ("version", DLPackVersion),
        ("manager_ctx", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("dl_tensor", DLTensor),
    )


DLPACK_MAJOR_VERSION = 1
DLPACK_FLAG_BITMASK_READ_ONLY = 1


# Handles and numbers cross as bare addresses: their types and sizes are checked before.
_status = c_int32
_handle = c_void_p
_new_handle = POINTER(c_void_p)
_values = c_void_p
_config = POINTER(Config)
_info = POINTER(TensorInfo)
_tensor = POINTER(DLTensor)

#: Every function: what it returns, then what it takes.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "lm_version": (c_char_p,),
    "lm_abi_version": (c_uint32,),
    "lm_build_info": (c_char_p,),
    "lm_last_error": (c_char_p,),
    "lm_status_name": (c_char_p, _status),
    "lm_set_num_threads": (_status, c_size_t),
    "lm_cuda_available": (c_bool,),
    "lm_config_init": (_status, _config, c_size_t),
    "lm_create": (_status, _config, _new_handle),
    "lm_destroy": (None, _handle),
    "lm_get_config": (_status, _handle, _config, c_size_t),
    "lm_d_inner": (c_size_t, _handle),
    "lm_forward": (_status, _handle, _values, c_size_t, c_size_t, _handle, _values),
    "lm_alloc_cache": (_status, _handle, c_size_t, c_size_t, c_uint32, _new_handle),
    "lm_step": (_status, _handle, _values, _handle, _values),
    "lm_free_cache": (None, _handle),
    "lm_cache_reset": (_status, _handle),
    "lm_cache_clone": (_status, _handle, _new_handle),
    "lm_cache_batch": (c_size_t, _handle),
    "lm_cache_seqlen_offset": (c_uint64, _handle),
    "lm_cache_bytes": (c_size_t, _handle),
    "lm_cache_get_state": (_status, _handle, c_char_p, _values, c_size_t),
    "lm_cache_set_state": (_status, _handle, c_char_p, _values, c_size_t),
    "lm_cache_num_states": (c_size_t, _handle),
    "lm_cache_state_info": (_status, _handle, c_size_t, _info, c_size_t),
    "lm_cache_reset_lane": (_status, _handle, c_size_t),
    "lm_cache_copy_lane": (_status, _handle, c_size_t, _handle, c_size_t),
    "lm_step_lanes": (_status, _handle, _values, _values, c_size_t, _handle, _values),
    "lm_forward_varlen": (_status, _handle, _values, _values, c_size_t, _handle, _values),
    "lm_cache_save": (_status, _handle, _values, c_size_t, POINTER(c_size_t)),
    "lm_cache_load": (_status, _handle, _values, c_size_t, _new_handle),
    "lm_inference_params_create": (_status, c_size_t, c_size_t, _new_handle),
    "lm_inference_params_free": (None, _handle),
    "lm_inference_params_reset": (_status, _handle),
    "lm_inference_params_cache": (_handle, _handle, c_int64),
    "lm_forward_inference": (_status, _handle, _values, c_size_t, c_size_t, _handle, _values),
    "lm_num_parameters": (c_size_t, _handle),
    "lm_parameter_info": (_status, _handle, c_size_t, _info, c_size_t),
    "lm_find_parameter": (_status, _handle, c_char_p, POINTER(c_size_t)),
    "lm_get_parameter": (_status, _handle, c_char_p, _values, c_size_t),
    "lm_set_parameter": (_status, _handle, c_char_p, _values, c_size_t),
    "lm_get_parameter_typed": (_status, _handle, c_char_p, c_uint32, _values, c_size_t),
    "lm_set_parameter_typed": (_status, _handle, c_char_p, c_uint32, _values, c_size_t),
    "lm_load": (_status, c_char_p, c_char_p, _config, _new_handle),
    "lm_load_memory": (_status, _values, c_size_t, c_char_p, _config, _new_handle),
    "lm_save": (_status, _handle, c_char_p),
    "lm_forward_dlpack": (_status, _handle, _tensor, _handle, _tensor, c_void_p),
    "lm_step_dlpack": (_status, _handle, _tensor, _handle, _tensor, c_void_p),
}
