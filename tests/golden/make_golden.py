"""Makes the golden files of this folder from the reference package, lite-mamba 0.2.6 on PyPI.

Every number comes from that package, none from this project's code. What a file holds and how to
run this program is told in README.md next to it.

    python make_golden.py           writes every file
    python make_golden.py --check   makes everything anew in memory and compares it with the files
    python make_golden.py typed     the same for one folder, with or without --check
"""

import argparse
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from lite_mamba import BaselineMamba, DPWCMamba, PTCNMamba, STCNMamba
from safetensors import safe_open
from safetensors.torch import save

HERE = Path(__file__).resolve().parent

VARIANTS = {"PTCN": PTCNMamba, "STCN": STCNMamba, "DPWC": DPWCMamba, "Baseline": BaselineMamba}

# The reference's own defaults, spelled out so that every file carries a complete configuration.
DEFAULTS = dict(
    d_state=16, d_conv=4, conv_dilations=[1], expand=2, dt_rank="auto", dt_min=0.001, dt_max=0.1,
    dt_init="random", dt_scale=1.0, dt_init_floor=1e-4, conv_bias=True, bias=False,
    use_fast_path=False, layer_idx=None,
)

# Above this length `y_step` and `step.*` are left out: they say nothing new and are a third of a file.
LONGEST_Y_STEP = 131

# What `--check` forgives between two machines, in parts of a tensor's largest value: products
# summed in another order. Weights and inputs are drawn, not computed, and must agree in every bit.
CHECK_TOLERANCE = 2e-6


def case(variant, batch, seqlen, *, names="both", x_scale=1.0, dt_gain=1.0, dt_shift=0.0, **config):
    """One file. `names` says which of the two names of convolution branch 0 the file keeps: "both"
    (a plain state dict), "conv1d" (what safetensors.torch.save_model leaves) or "branch0".
    `dt_gain` multiplies dt_proj.weight; `dt_shift` is added to every third dt_proj.bias."""
    return dict(variant=variant, batch=batch, seqlen=seqlen, names=names, x_scale=x_scale,
                dt_gain=dt_gain, dt_shift=dt_shift, config={**DEFAULTS, **config})


CASES = {
    # Parallel branches.
    "ptcn_l131_defaults": case("PTCN", 2, 131, d_model=16),
    "ptcn_l131_n17_w9": case("PTCN", 1, 131, d_model=12, d_state=17, d_conv=9,
                             conv_dilations=[1, 2, 4], bias=True),
    "ptcn_l131_n64": case("PTCN", 1, 131, d_model=24, d_state=64, conv_dilations=[1, 3],
                          names="conv1d"),
    "ptcn_l131_dilation_over_length": case("PTCN", 2, 131, d_model=9, d_state=5, d_conv=2, expand=1.5,
                                           conv_dilations=[200, 1, 131], layer_idx=2),
    "ptcn_l131_expand_0p7_rank3": case("PTCN", 2, 131, d_model=10, d_conv=3, expand=0.7, dt_rank=3,
                                       conv_dilations=[2, 1], names="branch0"),
    "ptcn_l131_large_inputs": case("PTCN", 2, 131, d_model=16, conv_dilations=[1, 2, 4], dt_rank=4,
                                   bias=True, x_scale=4.0, dt_gain=30.0),
    "ptcn_l131_large_dt_bias": case("PTCN", 1, 131, d_model=11, d_state=16, conv_dilations=[1, 2],
                                    conv_bias=False, dt_shift=25.5, names="conv1d"),
    "ptcn_l131_constant_rank5": case("PTCN", 1, 131, d_model=20, d_state=1, dt_rank=5,
                                     dt_init="constant", conv_dilations=[3], expand=2.0),
    "ptcn_l1134_k5": case("PTCN", 2, 1134, d_model=5, d_state=5, conv_dilations=[1, 2, 4, 8, 16],
                          names="conv1d"),
    "ptcn_l1134_n16_dilations_4_1_1_7": case("PTCN", 1, 1134, d_model=8, conv_dilations=[4, 1, 1, 7],
                                             bias=True, conv_bias=False),
    "ptcn_l1_b7_n1_w1": case("PTCN", 7, 1, d_model=7, d_state=1, d_conv=1, conv_dilations=[1, 3]),
    "ptcn_l2_dilation_over_length": case("PTCN", 1, 2, d_model=6, d_state=17, d_conv=3,
                                         conv_dilations=[100, 5], names="branch0"),
    # Stacked convolutions.
    "stcn_l131_k3": case("STCN", 2, 131, d_model=16, conv_dilations=[1, 2, 4]),
    "stcn_l131_n17_dilations_4_1_1_7": case("STCN", 1, 131, d_model=13, d_state=17, d_conv=3, bias=True,
                                            conv_dilations=[4, 1, 1, 7], conv_bias=False,
                                            names="conv1d"),
    "stcn_l131_expand_1p5_large_inputs": case("STCN", 2, 131, d_model=10, d_state=5, expand=1.5,
                                              conv_dilations=[3], x_scale=4.0, dt_gain=50.0,
                                              layer_idx=0),
    "stcn_l1134_k5_w2": case("STCN", 1, 1134, d_model=7, d_state=5, d_conv=2, names="branch0",
                             conv_dilations=[1, 2, 4, 8, 16]),
    "stcn_l1_n1_w3": case("STCN", 1, 1, d_model=5, d_state=1, d_conv=3, conv_dilations=[1, 2]),
    "stcn_l2_b7_w9_dilation_over_length": case("STCN", 7, 2, d_model=6, d_state=16, d_conv=9, expand=1,
                                               conv_dilations=[1, 20], names="branch0", bias=True),
    # Depthwise, then pointwise.
    "dpwc_l131_k3": case("DPWC", 2, 131, d_model=16, conv_dilations=[1, 2, 4]),
    "dpwc_l131_k5_n17_expand_0p7": case("DPWC", 1, 131, d_model=10, d_state=17, d_conv=2, expand=0.7,
                                        conv_dilations=[1, 2, 4, 8, 16], conv_bias=False, bias=True,
                                        names="conv1d"),
    "dpwc_l131_expand_2p0_large_dt_bias": case("DPWC", 2, 131, d_model=9, expand=2.0, dt_rank=4,
                                               conv_dilations=[2, 1], dt_shift=25.5,
                                               names="branch0"),
    "dpwc_l1134_dilations_4_1_1_7": case("DPWC", 1, 1134, d_model=6, d_state=5,
                                         conv_dilations=[4, 1, 1, 7]),
    "dpwc_l1_b7_k1": case("DPWC", 7, 1, d_model=8, d_state=16, conv_dilations=[2], dt_init="constant"),
    "dpwc_l2_n64_dilation_over_length": case("DPWC", 2, 2, d_model=7, d_state=64, d_conv=3,
                                                conv_dilations=[40, 1], names="conv1d"),
    # One branch, as upstream.
    "baseline_l131_defaults": case("Baseline", 2, 131, d_model=16),
    "baseline_l131_n64_large_inputs": case("Baseline", 1, 131, d_model=9, d_state=64, expand=1.5,
                                           x_scale=4.0, dt_gain=40.0, use_fast_path=True, layer_idx=3),
    "baseline_l131_constant_rank5": case("Baseline", 2, 131, d_model=11, d_state=17, dt_rank=5,
                                         dt_init="constant", conv_bias=False, dt_shift=25.5),
    "baseline_l1134_n16": case("Baseline", 1, 1134, d_model=8),
    "baseline_l1_n1_w1": case("Baseline", 1, 1, d_model=5, d_state=1, d_conv=1, bias=True),
    "baseline_l2_b7_n5_w9": case("Baseline", 7, 2, d_model=6, d_state=5, d_conv=9, bias=True,
                                 conv_bias=False),
}

# Cases that promise values of dt_proj above 20, where softplus turns into the identity.
PASSES_20 = [name for name, c in CASES.items() if c["dt_gain"] != 1.0 or c["dt_shift"] != 0.0]


def init_case(variant, seed, **config):
    return dict(variant=variant, seed=seed, config={**DEFAULTS, **config})


# Only the low 32 bits of a seed count: the same layer is made from 42 and from 2^32 + 42.
LONG_SEED = 2**32 + 42

INIT_CASES = {
    "ptcn_seed0": init_case("PTCN", 0, d_model=8, conv_dilations=[1, 2, 4]),
    "ptcn_seed42": init_case("PTCN", 42, d_model=8, conv_dilations=[1, 2, 4]),
    "ptcn_seed42_plus_2p32": init_case("PTCN", LONG_SEED, d_model=8, conv_dilations=[1, 2, 4]),
    "ptcn_seed7_bias_expand_0p7": init_case("PTCN", 7, d_model=10, d_state=5, d_conv=3, expand=0.7,
                                            bias=True, conv_bias=False, dt_rank=3, dt_scale=0.5),
    "ptcn_seed1_d40": init_case("PTCN", 1, d_model=40, conv_dilations=[1, 2]),
    "stcn_seed0_bias": init_case("STCN", 0, d_model=9, d_state=17, conv_dilations=[2, 1], bias=True),
    "stcn_seed42_constant": init_case("STCN", 42, d_model=12, dt_init="constant", dt_rank=2,
                                      dt_scale=1.75, conv_bias=False, conv_dilations=[1, 2, 4]),
    "stcn_seed42_plus_2p32": init_case("STCN", LONG_SEED, d_model=5, d_state=1, d_conv=1, expand=1.5),
    "dpwc_seed0": init_case("DPWC", 0, d_model=6, conv_dilations=[1, 2]),
    "dpwc_seed42_bias": init_case("DPWC", 42, d_model=7, d_state=3, expand=1.5, conv_bias=False,
                                  bias=True, conv_dilations=[1, 2, 4], dt_min=0.01, dt_max=0.5),
    "dpwc_seed42_plus_2p32": init_case("DPWC", LONG_SEED, d_model=5, d_state=4, dt_init="constant"),
    "dpwc_seed3_d40": init_case("DPWC", 3, d_model=40, d_state=8, expand=1.25, conv_dilations=[1, 3],
                                bias=True),
    "baseline_seed0": init_case("Baseline", 0, d_model=8),
    "baseline_seed42_floor": init_case("Baseline", 42, d_model=11, d_conv=9, bias=True, dt_rank=4,
                                       dt_scale=2.0, dt_min=1e-5, dt_init_floor=1e-3),
    "baseline_seed2p64_minus_1": init_case("Baseline", 2**64 - 1, d_model=7, d_state=16, d_conv=2,
                                           conv_bias=False, dt_init="constant"),
}

# The storage types, by the ending of their tensors' names.
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16}

# What stays f32 in a layer of any type.
ALWAYS_F32 = {"A_log", "D", "conv_gates"}

# The cases that the reference also computes in the storage types.
TYPED_CASES = [
    "ptcn_l131_n17_w9", "ptcn_l131_n64", "ptcn_l131_dilation_over_length", "ptcn_l131_expand_0p7_rank3",
    "ptcn_l131_large_inputs", "ptcn_l131_large_dt_bias", "ptcn_l131_constant_rank5", "ptcn_l1134_k5",
    "ptcn_l1_b7_n1_w1", "ptcn_l2_dilation_over_length",
    "stcn_l131_k3", "stcn_l131_n17_dilations_4_1_1_7", "stcn_l131_expand_1p5_large_inputs",
    "stcn_l2_b7_w9_dilation_over_length",
    "dpwc_l131_k3", "dpwc_l131_k5_n17_expand_0p7", "dpwc_l1134_dilations_4_1_1_7", "dpwc_l1_b7_k1",
    "dpwc_l2_n64_dilation_over_length",
    "baseline_l131_defaults", "baseline_l131_n64_large_inputs", "baseline_l2_b7_n5_w9",
]


def build(variant, config):
    """The reference layer. Each class takes only the arguments it knows."""
    ignored = ["conv_dilations"] if variant == "Baseline" else ["use_fast_path"]
    return VARIANTS[variant](**{k: v for k, v in config.items() if k not in ignored})


def perturb(layer, spec):
    """Moves every parameter away from its initial value, so that none is trivially one."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            noise = torch.randn(parameter.shape)
            if name == "conv_gates":
                parameter += noise
            elif name == "D":
                parameter += 0.5 * noise
            elif name == "A_log":
                parameter += 0.3 * noise
            elif name == "dt_proj.bias":
                parameter += 0.5 * noise
                parameter[::3] += spec["dt_shift"]
            elif name == "dt_proj.weight":
                parameter += 0.1 * noise
                parameter *= spec["dt_gain"]
            else:
                parameter += 0.1 * noise


def zero_state(layer, batch):
    """Empty states for `step`, in the layer's type, as its own allocate_inference_cache makes them;
    that one fails with a float expand."""
    lengths = getattr(layer, "conv_state_lens", [layer.d_conv])
    dtype = layer.in_proj.weight.dtype
    conv_state = [torch.zeros(batch, layer.d_inner, length, dtype=dtype) for length in lengths]
    return conv_state, torch.zeros(batch, layer.d_inner, layer.d_state, dtype=dtype)


def run_steps(layer, x):
    conv_state, ssm_state = zero_state(layer, x.shape[0])
    single = isinstance(layer, BaselineMamba)  # it holds one tensor where the others hold a list
    outputs = []
    for t in range(x.shape[1]):
        y, _, _ = layer.step(x[:, t : t + 1], conv_state[0] if single else conv_state, ssm_state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), conv_state, ssm_state


def kept_weights(layer, names):
    """The state dict under `layer.`, with one or both names of convolution branch 0."""
    weights = {name: value.detach().clone() for name, value in layer.state_dict().items()}
    if not isinstance(layer, BaselineMamba):
        branch0 = "dw_conv1d_layers.0." if isinstance(layer, DPWCMamba) else "conv1d_layers.0."
        dropped = {"both": (), "conv1d": branch0, "branch0": "conv1d."}[names]
        weights = {k: v for k, v in weights.items() if not dropped or not k.startswith(dropped)}
    return {f"layer.{name}": value for name, value in weights.items()}


def metadata_for(variant, config, **more):
    described = {"variant": variant, **config, "dtype": "float32"}
    return {"lite_mamba.config.layer": json.dumps(described), **more}


def make_layer_and_input(name, spec):
    # A seed of its own per case, so that adding one leaves the others as they are.
    torch.manual_seed(sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**32)
    layer = build(spec["variant"], spec["config"])
    perturb(layer, spec)
    return layer, spec["x_scale"] * torch.randn(spec["batch"], spec["seqlen"], layer.d_model)


def make_case(name, spec):
    layer, x = make_layer_and_input(name, spec)
    projected = []
    layer.x_proj.register_forward_hook(lambda module, args, output: projected.append(output))
    with torch.no_grad():
        y = layer(x)
        v = projected[0][:, : layer.dt_rank] @ layer.dt_proj.weight.T + layer.dt_proj.bias
        y_step, conv_state, ssm_state = run_steps(layer, x)
    if name in PASSES_20:
        above = (v > 20).float().mean().item()
        assert 0.02 < above < 0.9, f"{name}: {above:.0%} of the values before softplus are above 20"

    tensors = kept_weights(layer, spec["names"])
    tensors.update(x=x, y=y, ssm_state=ssm_state)
    tensors.update({f"conv_state.{i}": state for i, state in enumerate(conv_state)})
    if spec["seqlen"] <= LONGEST_Y_STEP:
        tensors["y_step"] = y_step
    return tensors, metadata_for(spec["variant"], spec["config"])


def make_typed_case(name, spec):
    """What the same layer gives in each storage type, its weights and its input converted."""
    layer, x = make_layer_and_input(name, spec)
    tensors = {}
    for ending, dtype in TYPES.items():
        typed = build(spec["variant"], {**spec["config"], "dtype": dtype})
        typed.load_state_dict(layer.state_dict())  # rounds to nearest, ties to even
        for parameter, value in typed.named_parameters():
            expected = torch.float32 if parameter in ALWAYS_F32 else dtype
            assert value.dtype == expected, f"{name}: {parameter} is {value.dtype}"
        with torch.no_grad():
            tensors[f"forward.{ending}"] = typed(x.to(dtype))
            if spec["seqlen"] <= LONGEST_Y_STEP:
                tensors[f"step.{ending}"], _, _ = run_steps(typed, x.to(dtype))
    for key, tensor in tensors.items():
        assert tensor.dtype == TYPES[key.split(".")[1]], f"{name}: {key} is {tensor.dtype}"
        assert tensor.isfinite().all(), f"{name}: {key} overflows"
    return tensors, None


def make_init_case(spec):
    torch.manual_seed(spec["seed"])
    layer = build(spec["variant"], spec["config"])
    return kept_weights(layer, "both"), metadata_for(spec["variant"], spec["config"],
                                                     seed=str(spec["seed"]))


def make_all(folder):
    """Every file, or those of "typed" or "init" alone."""
    if folder is None:
        for name, spec in CASES.items():
            yield HERE / f"{name}.safetensors", *make_case(name, spec)
    if folder in (None, "typed"):
        for name in TYPED_CASES:
            yield HERE / "typed" / f"{name}.safetensors", *make_typed_case(name, CASES[name])
    if folder in (None, "init"):
        for name, spec in INIT_CASES.items():
            yield HERE / "init" / f"{name}.safetensors", *make_init_case(spec)


def difference(made, stored):
    """The largest difference in parts of the largest stored value, 0.0 when every bit agrees."""
    if made.shape != stored.shape or made.dtype != stored.dtype:
        return math.inf
    made, stored = made.contiguous().float().numpy(), stored.contiguous().float().numpy()
    if made.tobytes() == stored.tobytes():
        return 0.0
    largest = float(np.abs(stored).max())
    return float(np.abs(made - stored).max()) / largest if largest > 0 else math.inf


def write(path, tensors, metadata):
    """A safetensors file with its header in sorted order; the library's own order of metadata keys
    changes from run to run, and a golden file made twice should be the same bytes."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def check(path, tensors, metadata):
    """Prints how the file compares with what was made; true when it is as it should be."""
    if not path.exists():
        print(f"{path.name}: missing")
        return False
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
        if file.metadata() != metadata or stored.keys() != tensors.keys():
            print(f"{path.name}: other metadata or other tensors")
            return False
    exact = {name for name in tensors if name.startswith("layer.") or name == "x"}
    worst, good = 0.0, True
    for name, tensor in tensors.items():
        error = difference(tensor, stored[name])
        worst = max(worst, error)
        # In a storage type, another order of a sum shows in the last place.
        computed = CHECK_TOLERANCE if tensor.dtype == torch.float32 else torch.finfo(tensor.dtype).eps
        if error > (0.0 if name in exact else computed):
            print(f"{path.name}: {name} differs by {error:.3g} of its largest value")
            good = False
    if good:
        print(f"{path.name}: {'bit for bit' if worst == 0.0 else f'within {worst:.2g}'}")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", choices=["typed", "init"], help="only this folder's files")
    parser.add_argument("--check", action="store_true", help="compare with the files, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    good = True
    for path, tensors, metadata in make_all(arguments.folder):
        if arguments.check:
            good &= check(path, tensors, metadata)
        else:
            write(path, tensors, metadata)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
