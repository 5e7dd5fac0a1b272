"""Saves lite-mamba layers of PyTorch as safetensors files, for `lm_load` to read.

    from export import save_layer, save_model

    save_layer(layer, "layer.safetensors")                      # lm_load(path, NULL, ...)
    save_layer(model, "layer.safetensors", name="backbone.0")   # one layer out of a model
    save_model(model, "model.safetensors")                      # lm_load(path, "backbone.0", ...)

or, for a checkpoint without the program that made it, with the constructor's arguments and
`variant` in a JSON file:

    python export.py checkpoint.pt layer.safetensors --config config.json --prefix backbone.0

The layers are those of the package lite-mamba (PTCNMamba, STCNMamba, DPWCMamba, BaselineMamba) and
upstream's `Mamba` block, which computes what BaselineMamba does. Needs torch and safetensors.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# A file that is one layer has its configuration under this metadata key; a layer inside a model's
# file has it under this key, a dot and the layer's name in the model.
METADATA_KEY = "lite_mamba.config"

VARIANT_OF_CLASS = {
    "PTCNMamba": "PTCN",
    "STCNMamba": "STCN",
    "DPWCMamba": "DPWC",
    "BaselineMamba": "Baseline",
}

DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}

# The constructor's arguments. The shapes follow from the first group, with these values where the
# argument is left out; the second only names what a layer was made with.
DEFAULTS = {
    "d_state": 16,
    "d_conv": 4,
    "conv_dilations": [1],
    "expand": 2,
    "dt_rank": "auto",
    "conv_bias": True,
    "bias": False,
}
OTHER_ARGUMENTS = {
    "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path", "layer_idx", "dtype",
}  # fmt: skip


class ExportError(ValueError):
    """What was given is not a lite-mamba layer, or not a complete one."""


def save_layer(module, path, name=""):
    """Saves one layer, `module` itself or its submodule `name`, as the whole of a file."""
    module = unwrap(module)
    layer = module.get_submodule(name) if name else module
    config = layer_config(layer)
    write(layer.state_dict(), {METADATA_KEY: config}, path)
    return config


def save_model(model, path, layers_only=False):
    """Saves a model's tensors under their own names, with the configuration of every lite-mamba
    layer in it. `layers_only` leaves out the tensors that belong to no such layer.

    A tensor that the model shares under two names is written under both, so that the file can be
    loaded with a plain `load_state_dict`. Gives the configurations by the layers' names.
    """
    model = unwrap(model)
    # A layer that is used twice has two names in the state dict: it can be loaded by either.
    layers = {
        name: layer_config(module)
        for name, module in model.named_modules(remove_duplicate=False)
        if variant_of(module) is not None
    }
    if not layers:
        raise ExportError(f"there is no lite-mamba layer in this {type(model).__name__}")

    tensors = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    if layers_only:
        prefixes = tuple(f"{name}." if name else "" for name in layers)
        tensors = {k: v for k, v in tensors.items() if k.startswith(prefixes)}
    write(tensors, {join(METADATA_KEY, name): config for name, config in layers.items()}, path)
    return layers


def save_state_dict(tensors, config, path, prefix=""):
    """Saves the layer whose tensors stand under `prefix` in a state dict as the whole of a file.
    `config` holds the constructor's arguments by name, and `variant`."""
    start = f"{prefix.rstrip('.')}." if prefix else ""
    layer = {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
    if "in_proj.weight" not in layer:
        found = sorted(k.removesuffix("A_log").rstrip(".") for k in tensors if k.endswith("A_log"))
        raise ExportError(f"there is no {start}in_proj.weight; layers seem to be at {found}")
    config = {**config, "dtype": dtype_name(layer["in_proj.weight"])}
    check_tensors(layer, config)
    write(layer, {METADATA_KEY: config}, path)
    return config


def layer_config(module):
    """The constructor's arguments of a layer, as far as the layer still knows them. It forgets how
    its initial values were drawn (`dt_min` and the like), which nothing needs to run it."""
    variant = variant_of(module)
    if variant is None:
        raise ExportError(
            f"{type(module).__name__} is not a lite-mamba layer: expected one of "
            f"{', '.join(VARIANT_OF_CLASS)} or upstream's Mamba"
        )
    whole = isinstance(module.expand, int)
    config = {
        "variant": variant,
        "d_model": module.d_model,
        "d_state": module.d_state,
        "d_conv": module.d_conv,
        "conv_dilations": list(getattr(module, "conv_dilations", [1])),
        "expand": module.expand if whole else float(module.expand),
        "dt_rank": module.dt_rank,
        "conv_bias": module.conv1d.bias is not None,
        "bias": module.in_proj.bias is not None,
        "layer_idx": module.layer_idx,
        "dtype": dtype_name(module.in_proj.weight),
    }
    if variant == "Baseline":
        config["use_fast_path"] = bool(getattr(module, "use_fast_path", False))
    check_tensors(module.state_dict(), config)
    return config


def variant_of(module):
    """The variant by the name of the class or of one it derives from; None for other modules.
    By name, because a program may carry its own copy of the package."""
    parts = ("in_proj", "conv1d", "x_proj", "dt_proj", "A_log", "D", "out_proj")
    if not all(hasattr(module, part) for part in parts):
        return None
    names = [cls.__name__ for cls in type(module).__mro__]
    for name in names:
        if name in VARIANT_OF_CLASS:
            return VARIANT_OF_CLASS[name]
    if "Mamba" in names:
        # Both packages call their base class so. Only lite-mamba's has a list of convolutions.
        return "PTCN" if hasattr(module, "conv1d_layers") else "Baseline"
    return None


def expected_shapes(config):
    """The shape of every tensor of a layer, by its state-dict name, without the alias `conv1d`."""
    if config.get("variant") not in VARIANT_OF_CLASS.values():
        raise ExportError(
            f"variant is {config.get('variant')!r}, must be one of {[*VARIANT_OF_CLASS.values()]}"
        )
    if "d_model" not in config:
        raise ExportError("d_model is missing from the configuration")
    unknown = config.keys() - DEFAULTS.keys() - OTHER_ARGUMENTS - {"variant", "d_model"}
    if unknown:
        raise ExportError(f"the configuration has unknown keys: {sorted(unknown)}")

    c = {**DEFAULTS, **config}
    variant, d, n, w = c["variant"], c["d_model"], c["d_state"], c["d_conv"]
    e = int(c["expand"] * d)
    r = math.ceil(d / 16) if c["dt_rank"] == "auto" else c["dt_rank"]
    branches = range(len(c["conv_dilations"]))

    shapes = {
        "in_proj.weight": (2 * e, d),
        "x_proj.weight": (r + 2 * n, e),
        "dt_proj.weight": (e, r),
        "dt_proj.bias": (e,),
        "A_log": (e, n),
        "D": (e,),
        "out_proj.weight": (d, e),
    }
    if c["bias"]:
        shapes |= {"in_proj.bias": (2 * e,), "out_proj.bias": (d,)}
    for i in branches:
        name = branch_name(variant, i)
        shapes[f"{name}.weight"] = (e, 1, w)
        if c["conv_bias"]:
            shapes[f"{name}.bias"] = (e,)
        if variant == "DPWC":
            shapes[f"pw_conv1d_layers.{i}.weight"] = (e, e, 1)
            shapes[f"pw_conv1d_layers.{i}.bias"] = (e,)
    if variant in ("PTCN", "DPWC"):
        shapes["conv_gates"] = (len(branches),)
    return shapes


def branch_name(variant, i):
    if variant == "Baseline":
        return "conv1d"
    return f"dw_conv1d_layers.{i}" if variant == "DPWC" else f"conv1d_layers.{i}"


def check_tensors(tensors, config):
    """Refuses a layer whose tensors are not exactly those of its configuration. Branch 0 and its
    alias `conv1d` are one tensor: either is enough."""
    branch0 = branch_name(config.get("variant"), 0)
    own_name = {
        k: k.replace("conv1d.", f"{branch0}.", 1) if k.startswith("conv1d.") else k for k in tensors
    }
    shapes = expected_shapes(config)
    missing = shapes.keys() - own_name.values()
    if missing:
        raise ExportError(f"the layer has no tensor {min(missing)}")
    for name, tensor in tensors.items():
        if own_name[name] not in shapes:
            raise ExportError(f"the layer has a tensor that its configuration does not: {name}")
        shape = shapes[own_name[name]]
        if tuple(tensor.shape) != shape:
            raise ExportError(f"{name} has shape {tuple(tensor.shape)}, must be {shape}")
        dtype_name(tensor, name)


def dtype_name(tensor, name="in_proj.weight"):
    if tensor.dtype not in DTYPE_NAMES:
        raise ExportError(f"{name} is {tensor.dtype}, must be one of {[*DTYPE_NAMES.values()]}")
    return DTYPE_NAMES[tensor.dtype]


def write(tensors, configs, path):
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ExportError(f"{name} is on the meta device, it has no values to save")
    # "format" is what other readers of safetensors files look for.
    metadata = {"format": "pt", **{key: json.dumps(config) for key, config in configs.items()}}
    # Clones, because safetensors refuses tensors that share memory, as branch 0 and its alias do.
    copies = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    save_file(copies, path, metadata)


def join(prefix, name):
    return f"{prefix}.{name}" if name else prefix


def unwrap(module):
    """The module inside torch.compile's wrapper, whose names carry no `_orig_mod.`."""
    return getattr(module, "_orig_mod", module)


def load_checkpoint(path):
    """The state dict in a file of torch.save or of safetensors."""
    if Path(path).suffix == ".safetensors":
        return load_file(path)
    # weights_only: a checkpoint is data and runs no code here.
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, dict):
        raise ExportError(f"{path} holds a {type(checkpoint).__name__}, must be a state dict")
    return {k: v for k, v in checkpoint.items() if isinstance(v, torch.Tensor)}


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Saves one lite-mamba layer of a checkpoint for lm_load.")
    parser.add_argument("checkpoint", help="state dict: torch.save's file or .safetensors")
    parser.add_argument("output", help="the .safetensors file to write")
    parser.add_argument("--config", required=True, help="JSON: the constructor's arguments and variant")
    parser.add_argument("--prefix", default="", help="the layer's name in the checkpoint's model")
    arguments = parser.parse_args(arguments)
    try:
        config = json.loads(Path(arguments.config).read_text(encoding="utf-8"))
        save_state_dict(load_checkpoint(arguments.checkpoint), config, arguments.output, arguments.prefix)
    except (ExportError, OSError, json.JSONDecodeError) as error:
        sys.exit(f"export.py: {error}")


if __name__ == "__main__":
    main()
