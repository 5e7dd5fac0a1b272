"""Tests of export.py: `python -m pytest test_export.py`, or `python test_export.py` without pytest.
Needs torch, safetensors and the reference package (lite-mamba 0.2.6, einops)."""

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
from lite_mamba import BaselineMamba, DPWCMamba, PTCNMamba, STCNMamba
from lite_mamba.mamba_simple import Mamba
from safetensors import safe_open
from torch import nn

from export import ExportError, save_layer, save_model, save_state_dict

LAYERS = {
    "PTCN": lambda **k: PTCNMamba(6, d_state=3, d_conv=3, conv_dilations=(1, 4), **k),
    "STCN": lambda **k: STCNMamba(6, d_state=3, d_conv=3, conv_dilations=(2, 1), **k),
    "DPWC": lambda **k: DPWCMamba(6, d_state=3, d_conv=3, conv_dilations=(1, 1), **k),
    "Baseline": lambda **k: BaselineMamba(6, d_state=3, d_conv=3, **k),
}


@contextmanager
def temporary(name="out.safetensors"):
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / name


@contextmanager
def refused(*words):
    """The block must raise an ExportError whose message has these words."""
    try:
        yield
    except ExportError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError("nothing was refused")


def read(path):
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        assert metadata.pop("format") == "pt"
        configs = {key: json.loads(value) for key, value in metadata.items()}
        return {name: file.get_tensor(name) for name in file.keys()}, configs


def assert_same(tensors, state_dict):
    assert tensors.keys() == state_dict.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == state_dict[name].dtype, name
        assert torch.equal(tensor, state_dict[name]), name


def rebuild(config):
    """A new layer from what the file says, as a reader would make it."""
    config = dict(config)
    variant, dtype = config.pop("variant"), getattr(torch, config.pop("dtype"))
    if variant == "Baseline":
        assert config.pop("conv_dilations") == [1]
    classes = {"PTCN": PTCNMamba, "STCN": STCNMamba, "DPWC": DPWCMamba, "Baseline": BaselineMamba}
    return classes[variant](**config, dtype=dtype)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.backbone = nn.ModuleList([LAYERS["PTCN"](layer_idx=0), nn.SiLU(), LAYERS["STCN"](layer_idx=1)])
        self.head = nn.Linear(6, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_every_variant_and_type_comes_back():
    for variant, make in LAYERS.items():
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            for options in ({}, {"bias": True, "conv_bias": False}, {"expand": 0.7}, {"expand": 2.0}):
                layer = make(dtype=dtype, layer_idx=4, **options)
                with temporary() as path:
                    save_layer(layer, path)
                    tensors, configs = read(path)
                assert_same(tensors, layer.state_dict())
                (config,) = configs.values()
                assert [*configs] == ["lite_mamba.config"]
                assert config["variant"] == variant and config["layer_idx"] == 4
                assert type(config["expand"]) is type(options.get("expand", 2))
                again = rebuild(config)
                again.load_state_dict(tensors)
                assert_same(again.state_dict(), layer.state_dict())
                # dtype=… leaves these in f32, as the reference does.
                assert tensors["A_log"].dtype == tensors["D"].dtype == torch.float32


def test_converted_module_and_base_class():
    layer = Mamba(5, dt_rank=3).to(torch.bfloat16)
    with temporary() as path:
        config = save_layer(layer, path)
        tensors, _ = read(path)
    assert config["variant"] == "PTCN" and config["dt_rank"] == 3 and config["layer_idx"] is None
    assert tensors["A_log"].dtype == torch.bfloat16


def test_rebuilt_layer_computes_the_same():
    layer = LAYERS["DPWC"](expand=1.5)
    with temporary() as path:
        save_layer(layer, path)
        tensors, configs = read(path)
    again = rebuild(configs["lite_mamba.config"])
    again.load_state_dict(tensors)
    x = torch.randn(2, 9, 6)
    assert torch.equal(layer(x), again(x))


def test_subclass_with_its_own_name():
    class Renamed(STCNMamba):
        pass

    with temporary() as path:
        assert save_layer(Renamed(4), path)["variant"] == "STCN"


def test_upstream_block_is_baseline():
    # Upstream's block has the same members under the name Mamba; a stand-in saves the dependency.
    upstream = type("Mamba", (nn.Module,), {})()
    upstream.__dict__.update(BaselineMamba(4).__dict__)
    with temporary() as path:
        assert save_layer(upstream, path)["variant"] == "Baseline"


def test_named_submodule():
    model = Model()
    with temporary() as path:
        assert save_layer(model, path, name="backbone.2")["variant"] == "STCN"
        tensors, configs = read(path)
    assert [*configs] == ["lite_mamba.config"]
    assert_same(tensors, model.backbone[2].state_dict())


def test_model():
    model = Model()
    with temporary() as path:
        save_model(model, path)
        tensors, configs = read(path)
        assert_same(tensors, model.state_dict())
        assert sorted(configs) == ["lite_mamba.config.backbone.0", "lite_mamba.config.backbone.2"]
        assert configs["lite_mamba.config.backbone.2"]["conv_dilations"] == [2, 1]

        save_model(model, path, layers_only=True)
        tensors, _ = read(path)
        assert tensors.keys() == {k for k in model.state_dict() if k.startswith("backbone.")}

        # A model that is one layer: the key carries no name.
        save_model(model.backbone[0], path)
        assert [*read(path)[1]] == ["lite_mamba.config"]


def test_shared_layer_and_compiled_model():
    layer = LAYERS["PTCN"]()
    with temporary() as path:
        assert [*save_model(nn.Sequential(layer, layer), path)] == ["0", "1"]
        assert [*save_model(torch.compile(nn.Sequential(layer)), path)] == ["0"]


def test_refusals():
    with temporary() as path:
        with refused("Linear", "not a lite-mamba layer"):
            save_layer(nn.Linear(2, 2), path)
        with refused("no lite-mamba layer"):
            save_model(nn.Sequential(nn.Linear(2, 2)), path)
        with refused("not a lite-mamba layer"):  # another thing by that name
            save_layer(type("Mamba", (nn.Module,), {})(), path)
        with refused("meta"):
            save_layer(PTCNMamba(4).to("meta"), path)
        with refused("float8"):
            save_layer(PTCNMamba(4).to(torch.float8_e4m3fn), path)

        layer = PTCNMamba(4)
        layer.adapter = nn.Linear(4, 4)
        with refused("adapter"):
            save_layer(layer, path)
        layer = PTCNMamba(4)
        layer.D = nn.Parameter(torch.ones(3))
        with refused("D has shape (3,), must be (8,)"):
            save_layer(layer, path)
        layer = PTCNMamba(4)
        layer.conv_gates = None
        with refused("no tensor conv_gates"):
            save_layer(layer, path)
        assert not path.exists()


def test_state_dict():
    model = Model()
    config = {"variant": "PTCN", "d_model": 6, "d_state": 3, "d_conv": 3, "conv_dilations": [1, 4]}
    state = model.state_dict()
    with temporary() as path:
        for prefix in ("backbone.0", "backbone.0."):
            save_state_dict(state, config, path, prefix)
            assert_same(read(path)[0], model.backbone[0].state_dict())
        # Either name of branch 0 is enough.
        for dropped in ("conv1d.", "conv1d_layers.0."):
            some = {k: v for k, v in state.items() if not k.startswith(f"backbone.0.{dropped}")}
            save_state_dict(some, config, path, "backbone.0")

        path.unlink()
        with refused("nowhere.in_proj.weight", "backbone.0", "backbone.2"):
            save_state_dict(state, config, path, "nowhere")
        with refused("A_log has shape (12, 3), must be (12, 4)"):
            save_state_dict(state, {**config, "d_state": 4}, path, "backbone.0")
        with refused("conv1d_layers.2"):
            save_state_dict(state, {**config, "conv_dilations": [1, 2, 4]}, path, "backbone.0")
        with refused("does not", "conv_gates"):
            save_state_dict(state, {**config, "variant": "STCN"}, path, "backbone.0")
        with refused("variant", "'GRU'"):
            save_state_dict(state, {**config, "variant": "GRU"}, path, "backbone.0")
        with refused("d_sate"):
            save_state_dict(state, {**config, "d_sate": 4}, path, "backbone.0")
        with refused("d_model"):
            save_state_dict(state, {"variant": "PTCN"}, path, "backbone.0")
        assert not path.exists()


def test_command_line():
    model = Model()
    program = str(Path(__file__).with_name("export.py"))
    with temporary() as path:
        checkpoint, config = path.with_name("checkpoint.pt"), path.with_name("config.json")
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, checkpoint)
        arguments = {"variant": "STCN", "d_model": 6, "d_state": 3, "d_conv": 3, "conv_dilations": [2, 1]}
        config.write_text(json.dumps(arguments))
        command = [sys.executable, program, checkpoint, path, "--config", config, "--prefix"]
        subprocess.run([*command, "backbone.2"], check=True)
        tensors, configs = read(path)
        assert_same(tensors, model.backbone[2].state_dict())
        assert configs["lite_mamba.config"]["dtype"] == "float32"

        failed = subprocess.run([*command, "head"], capture_output=True, text=True)
        assert failed.returncode == 1
        assert failed.stderr.startswith("export.py: there is no head.in_proj.weight")


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print(f"{name}: passed")
