"""The library built with the feature `cuda`, for the programs of this folder that compare it with PyTorch's layers on a GPU."""

import ctypes

import torch

DTYPES = {torch.float32: 1, torch.bfloat16: 3, torch.float16: 4}


class Tensor(ctypes.Structure):
    """DLPack's DLTensor of a contiguous tensor on GPU 0."""

    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip

    def __init__(self, tensor):
        self.kept = tensor, (ctypes.c_int64 * tensor.ndim)(*tensor.shape)
        code = 4 if tensor.dtype == torch.bfloat16 else 2
        bits = tensor.element_size() * 8
        super().__init__(tensor.data_ptr(), 2, 0, tensor.ndim, code, bits, 1, ctypes.addressof(self.kept[1]), None, 0)


class Config(ctypes.Structure):
    """lm_config of version 1 of the ABI."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t), ("variant", ctypes.c_uint32), ("dtype", ctypes.c_uint32),
        ("d_model", ctypes.c_size_t), ("d_state", ctypes.c_size_t), ("d_conv", ctypes.c_size_t),
        ("conv_dilations", ctypes.c_void_p), ("num_conv_dilations", ctypes.c_size_t), ("expand", ctypes.c_double),
        ("dt_rank", ctypes.c_size_t), ("dt_min", ctypes.c_double), ("dt_max", ctypes.c_double),
        ("dt_scale", ctypes.c_double), ("dt_init_floor", ctypes.c_double), ("dt_init", ctypes.c_uint32),
        ("conv_bias", ctypes.c_bool), ("bias", ctypes.c_bool), ("use_fast_path", ctypes.c_bool),
        ("layer_idx", ctypes.c_int64), ("device", ctypes.c_uint32), ("device_index", ctypes.c_uint32),
        ("math", ctypes.c_uint32), ("seed", ctypes.c_uint64),
    ]  # fmt: skip


class Library:
    """Its functions by name; where one fails, its message is raised."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.lm_last_error.restype = ctypes.c_char_p

    def __getattr__(self, name):
        def call(*arguments):
            if getattr(self.lib, name)(*arguments):
                raise RuntimeError(self.lib.lm_last_error().decode())

        return call

    def layer(self, dtype, tf32, dilations, **fields):
        """A layer on GPU 0, `fields` being those of lm_config that differ from the defaults."""
        config, layer = Config(), ctypes.c_void_p()
        self.lm_config_init(ctypes.byref(config), ctypes.c_size_t(ctypes.sizeof(config)))
        kept = (ctypes.c_size_t * len(dilations))(*dilations)
        config.conv_dilations, config.num_conv_dilations = ctypes.addressof(kept), len(dilations)
        config.dtype, config.device, config.math = DTYPES[dtype], 1, int(tf32)
        for name, value in fields.items():
            setattr(config, name, value)
        self.lm_create(ctypes.byref(config), ctypes.byref(layer))
        return layer

    def cache(self, layer, batch):
        """A cache, freed by lm_free_cache."""
        cache = ctypes.c_void_p()
        self.lm_alloc_cache(layer, ctypes.c_size_t(batch), ctypes.c_size_t(0), 0, ctypes.byref(cache))
        return cache


def stream():
    """PyTorch's current stream."""
    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
