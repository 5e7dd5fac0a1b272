"""The reference's own numbers, by way of the binding."""

import json

import numpy as np
import pytest
from support import GOLDEN, read_safetensors, relative_error

from lite_mamba_native import Cache, Config, Layer

BOUND = 1e-5


def test_the_golden_files_are_there():
    assert len(GOLDEN) >= 30


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_forward_step_and_states_are_the_references(path):
    golden, _ = read_safetensors(path)
    x = golden["x"]
    batch, seqlen, _ = x.shape

    with Layer.load(path, "layer") as layer, Cache(layer, batch) as cache:
        y = layer.forward(x)
        assert relative_error(y, golden["y"]) <= BOUND

        stepped = np.stack([layer.step(x[:, t], cache) for t in range(seqlen)], axis=1)
        assert stepped.tobytes() == y.tobytes()
        assert ("y_step" in golden) == (seqlen <= 131)
        assert relative_error(stepped, golden.get("y_step", golden["y"])) <= BOUND

        assert cache.seqlen_offset == seqlen
        assert set(cache.states) == {name for name in golden if name.endswith("_state") or "_state." in name}
        for name, state in cache.states.items():
            assert relative_error(state, golden[name]) <= BOUND, name

        # A chunk, then tokens, then the rest, in one cache.
        cache.reset()
        cut = seqlen // 2
        parts = [layer(x[:, :cut], cache)]
        parts += [layer.step(x[:, t], cache)[:, None] for t in range(cut, min(cut + 3, seqlen))]
        parts += [layer(x[:, cut + 3 :], cache)]
        assert np.concatenate(parts, axis=1).tobytes() == y.tobytes()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_weights_and_configuration_come_and_go(path):
    golden, metadata = read_safetensors(path)
    config = Config(**json.loads(metadata["lite_mamba.config.layer"]))
    weights = {name[len("layer.") :]: w for name, w in golden.items() if name.startswith("layer.")}

    with Layer.load(path, "layer") as loaded, Layer(config) as layer:
        layer.load_state_dict(weights)
        assert layer.config == loaded.config
        for name, values in weights.items():
            assert np.array_equal(layer.parameters[name], values), name
        # Every name that the reference has, at least those of the file.
        state_dict = loaded.state_dict()
        assert state_dict.keys() >= weights.keys()
        assert np.array_equal(layer(golden["x"]), loaded(golden["x"]))
