"""PyTorch's tensors, where PyTorch is installed."""

import numpy as np
import pytest
from support import random

from lite_mamba_native import Cache, Config, Layer, _abi, _library

torch = pytest.importorskip("torch")

D_MODEL = 8
TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = {
    "contiguous": lambda x: x,
    "token first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "column first": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "a range of columns": lambda x: torch.cat([x, x], dim=2)[..., 3 : 3 + D_MODEL],
    "every second token": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
}


@pytest.fixture
def layer():
    with Layer(Config(D_MODEL, conv_dilations=(1, 2))) as layer:
        yield layer


@pytest.fixture
def given(monkeypatch):
    """The addresses of x and y in the calls."""
    addresses = []

    def spy(name):
        function = getattr(_library.lib, name)

        def call(layer, x, cache, y, stream):
            addresses.append((x.data + x.byte_offset, y.data + y.byte_offset))
            return function(layer, x, cache, y, stream)

        monkeypatch.setattr(_library.lib, name, call)

    spy("lm_forward_dlpack")
    spy("lm_step_dlpack")
    assert "lm_step_dlpack" in _abi.PROTOTYPES
    return addresses


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tensors_are_used_where_they_lie(layer, given, layout, dtype):
    x = layout(torch.from_numpy(random(3, 400, D_MODEL)).to(dtype))
    out = layout(torch.zeros(3, 400, D_MODEL, dtype=dtype))
    before = x.clone()
    assert layer(x, out=out) is out
    assert given[-1] == (x.data_ptr(), out.data_ptr())
    assert torch.equal(x, before)
    wanted = torch.from_numpy(layer(x.float().contiguous().numpy()))
    assert torch.equal(out, wanted.to(dtype))

    y = layer(x)
    assert type(y) is np.ndarray
    assert y.dtype == ("float32" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch."))
    assert torch.equal(torch.from_numpy(y).to(dtype), out)

    with Cache(layer, 3) as cache:
        for i in range(3):
            token, result = x[:, i], out[:, i]
            assert layer.step(token, cache, out=result) is result
            assert given[-1] == (token.data_ptr(), result.data_ptr())
            assert torch.equal(result, wanted[:, i].to(dtype))

    assert layer(x, out=x) is x
    assert torch.equal(x, wanted.to(dtype))


def test_one_sequence_for_all(layer):
    x = torch.randn(1, 5, D_MODEL).expand(3, 5, D_MODEL)
    assert np.array_equal(layer(x), layer(x.contiguous()))
    with pytest.raises(ValueError, match="y has strides"):
        layer(torch.randn(3, 5, D_MODEL), out=x)


def test_tensors_that_are_refused(layer):
    with pytest.raises(TypeError, match="x is a Tensor that DLPack cannot describe"):
        layer(torch.zeros(1, 2, D_MODEL, requires_grad=True))
    with pytest.raises(NotImplementedError, match="x->dtype has code 0"):
        layer(torch.zeros(1, 2, D_MODEL, dtype=torch.int32))
    memory = torch.zeros(3, 5, D_MODEL)
    with pytest.raises(ValueError, match="overlap"):
        layer(memory[:2], out=memory[1:])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_types_of_torch_are_types(dtype):
    name = str(dtype).removeprefix("torch.")
    with Layer(Config(D_MODEL, dtype=dtype)) as layer, Cache(layer, dtype=dtype) as cache:
        assert layer.config.dtype == cache.dtype == name
    with pytest.raises(ValueError, match=r"dtype is torch\.int8"):
        Layer(Config(D_MODEL, dtype=torch.int8))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_packed_sequences_of_torch(layer, dtype):
    x = torch.from_numpy(random(7, D_MODEL))
    y = layer.forward_varlen(x, torch.tensor([0, 3, 7], dtype=dtype))
    assert np.array_equal(y[:3], layer(x[:3]))
    assert np.array_equal(y[3:], layer(x[3:]))
