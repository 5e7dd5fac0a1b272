#!/usr/bin/env python3
"""How exact a layer on a GPU is, beside the reference on the same GPU in the same type:

    cuda_errors.py liblite_mamba.so [CASE ...]

The library is one built with the feature `cuda`. Needs torch with CUDA and what tests/golden/make_golden.py needs. Cases are
the golden ones and some of sizes in use. An error is max|y - exact| / max|exact|, exact being float64 of the weights and
inputs as the type rounds them; TF32 is the same layers with torch's allow_tf32 and LM_MATH_TF32. Ours may be twice the
reference's in f32, 1.2 times in bf16 and f16, or the type's epsilon where that is more; the status is 1 if any is not.
"""

import ctypes
import pathlib
import sys

import torch
from torch.nn.functional import silu, softplus

sys.path += [str(pathlib.Path(__file__).parents[1] / "tests" / "golden")]
from cuda_library import Library, Tensor, stream  # noqa: E402
from make_golden import ALWAYS_F32, CASES, build, case, make_layer_and_input, run_steps  # noqa: E402

VARIANTS = {"PTCN": 0, "STCN": 1, "DPWC": 2, "Baseline": 3}
TYPES = {  # type, TF32, times the reference's error
    "f32": (torch.float32, False, 2.0),
    "tf32": (torch.float32, True, None),
    "bf16": (torch.bfloat16, False, 1.2),
    "f16": (torch.float16, False, 1.2),
}
SIZES = {
    "G1": case("PTCN", 2, 128, d_model=512, d_conv=3, conv_dilations=[1, 2, 4, 8]),
    "G2 with batch 2": case("PTCN", 2, 2048, d_model=1024, conv_dilations=[1, 2, 4, 8]),
    "G4": case("PTCN", 1, 8192, d_model=768, conv_dilations=[1, 2, 4, 8]),
    "G5 with batch 8": case("PTCN", 8, 512, d_model=256, conv_dilations=[1, 2, 4, 8, 16]),
    "steps of 32": case("PTCN", 32, 40, d_model=768, conv_dilations=[1, 2, 4, 8]),
    "steps of 8": case("PTCN", 8, 40, d_model=1024, conv_dilations=[1, 2, 4, 8]),
    "steps of 1": case("PTCN", 1, 40, d_model=512, d_conv=3, conv_dilations=[1, 2, 4, 8]),
    "PTCN, odd": case("PTCN", 3, 1001, d_model=97, d_state=21, d_conv=5, conv_dilations=[3, 11], bias=True),
    "STCN": case("STCN", 2, 777, d_model=200, d_conv=4, conv_dilations=[1, 2, 4]),
    "STCN, long": case("STCN", 1, 6000, d_model=64, d_state=32, conv_dilations=[1, 8]),
    "DPWC": case("DPWC", 2, 500, d_model=256, conv_dilations=[1, 2, 4], bias=True),
    "DPWC, steps of 8": case("DPWC", 8, 40, d_model=256, conv_dilations=[1, 2, 4]),
    "Baseline": case("Baseline", 2, 1500, d_model=384),
    "Baseline, 64 states": case("Baseline", 4, 600, d_model=320, d_state=64),
    "Baseline, 256 states": case("Baseline", 1, 700, d_model=128, d_state=256),
}
LONGEST_STEPS = 131


def layer_and_input(name, spec):
    if name in CASES:
        return make_layer_and_input(name, spec)
    torch.manual_seed(1)
    layer = build(spec["variant"], spec["config"])
    with torch.no_grad():
        for parameter in (p for n, p in layer.named_parameters() if n in ALWAYS_F32):
            parameter += 0.3 * torch.randn(parameter.shape)
    return layer, torch.randn(spec["batch"], spec["seqlen"], layer.d_model)


def exactly(spec, layer, x):
    """The layer in float64, from its parameters as they are stored."""
    p = {name: value.double() for name, value in layer.state_dict().items()}
    config, variant = spec["config"], spec["variant"]
    dilations = [1] if variant == "Baseline" else config["conv_dilations"]
    x = x.double()

    def linear(name, rows):
        rows = rows @ p[f"{name}.weight"].flatten(1).T
        return rows + p[f"{name}.bias"] if f"{name}.bias" in p else rows

    def conv(i, v):
        name = {"DPWC": f"dw_conv1d_layers.{i}", "Baseline": "conv1d"}.get(variant, f"conv1d_layers.{i}")
        weight = p[f"{name}.weight"].squeeze(1)
        out = torch.zeros_like(v)
        for tap in range(weight.shape[1]):
            back = (weight.shape[1] - 1 - tap) * dilations[i]
            if back < v.shape[1]:
                out[:, back:] += weight[:, tap] * v[:, : v.shape[1] - back]
        return silu(out + p[f"{name}.bias"] if f"{name}.bias" in p else out)

    u, z = linear("in_proj", x).chunk(2, dim=-1)
    if variant == "STCN":
        for i in range(len(dilations)):
            u = conv(i, u)
    elif variant == "Baseline":
        u = conv(0, u)
    else:
        branches = [conv(i, u) for i in range(len(dilations))]
        if variant == "DPWC":
            branches = [linear(f"pw_conv1d_layers.{i}", branch) for i, branch in enumerate(branches)]
        u = sum(gate * branch for gate, branch in zip(torch.softmax(p["conv_gates"], 0), branches))
    n, rank = layer.d_state, layer.dt_rank
    r, b, c = linear("x_proj", u).split([rank, n, n], dim=-1)
    delta = softplus(linear("dt_proj", r), threshold=100)
    a = -p["A_log"].exp()
    state = torch.zeros(*u.shape[::2], n, dtype=torch.float64, device=u.device)
    y = torch.empty_like(u)
    for t in range(u.shape[1]):
        d = delta[:, t, :, None]
        state = (d * a).exp() * state + d * u[:, t, :, None] * b[:, t, None]
        y[:, t] = (state @ c[:, t, :, None]).squeeze(-1)
    return linear("out_proj", (y + p["D"] * u) * silu(z))


class Ours:
    """The same layer of this library."""

    def __init__(self, library, spec, layer, tf32):
        config = spec["config"]
        self.library = library
        self.handle = library.layer(
            layer.in_proj.weight.dtype,
            tf32,
            [1] if spec["variant"] == "Baseline" else config["conv_dilations"],
            variant=VARIANTS[spec["variant"]],
            dt_rank=layer.dt_rank,
            **{name: config[name] for name in ("d_model", "d_state", "d_conv", "expand", "conv_bias", "bias")},
        )
        for name, value in layer.state_dict().items():
            value = value.float().cpu().contiguous()
            pointer = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_float))
            library.lm_set_parameter(self.handle, name.encode(), pointer, ctypes.c_size_t(value.numel()))

    def __del__(self):
        torch.cuda.synchronize()
        self.library.lib.lm_destroy(self.handle)

    def forward(self, x):
        y = torch.full_like(x, float("nan"))
        tensors = Tensor(x), Tensor(y)
        self.library.lm_forward_dlpack(self.handle, ctypes.byref(tensors[0]), None, ctypes.byref(tensors[1]), stream())
        return y

    def steps(self, x):
        y = torch.full_like(x, float("nan"))
        cache = self.library.cache(self.handle, x.shape[0])
        for t in range(x.shape[1]):
            h, out = x[:, t].contiguous(), torch.empty_like(x[:, t].contiguous())
            tensors = Tensor(h), Tensor(out)
            self.library.lm_step_dlpack(
                self.handle, ctypes.byref(tensors[0]), cache, ctypes.byref(tensors[1]), stream()
            )
            y[:, t] = out
        torch.cuda.synchronize()
        self.library.lib.lm_free_cache(cache)
        return y


def error(y, exact):
    assert y.isfinite().all()
    return ((y.double() - exact).abs().max() / exact.abs().max()).item()


def main():
    library = Library(sys.argv[1])
    cases = {**CASES, **SIZES}
    worst, wrong = {}, []
    print(torch.cuda.get_device_name(), torch.__version__, "; ours / the reference's = times, of forward and of steps")
    for name in sys.argv[2:] or cases:
        spec = cases[name]
        first, x_first = layer_and_input(name, spec)
        for label, (dtype, tf32, most) in TYPES.items():
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            reference = build(spec["variant"], {**spec["config"], "dtype": dtype})
            reference.load_state_dict(first.state_dict())
            reference = reference.cuda()
            x = x_first.to(dtype).cuda()
            line = []
            with torch.no_grad(), torch.device("cuda"):
                exact = exactly(spec, reference, x)
                ours = Ours(library, spec, reference, tf32)
                pairs = {"forward": (ours.forward(x), reference(x))}
                if spec["seqlen"] <= LONGEST_STEPS:
                    pairs["steps"] = ours.steps(x), run_steps(reference, x)[0]
                for call, outputs in pairs.items():
                    a, b = (error(output, exact) for output in outputs)
                    times = a / max(b, 1e-300)
                    passes = most is None or a <= max(most * b, torch.finfo(dtype).eps)
                    line.append(f"{a:.2e} / {b:.2e} = {times:.2f}{'' if passes else ' !'}")
                    key = label, call, "golden" if name in CASES else "sizes"
                    worst.setdefault(key, []).append((times, a))
                    if not passes:
                        wrong.append(f"{name} {label} {call}: {a:.2e} / {b:.2e} = {times:.2f}")
            print(f"{name:36} {label:4} {'; '.join(line)}", flush=True)
            del ours
    print("\ntimes the reference's error: least, median, most; and our largest error")
    for (label, call, which), values in sorted(worst.items()):
        times = sorted(times for times, _ in values)
        largest = max(a for _, a in values)
        print(
            f"{label:4} {call:7} {which:6} {times[0]:.2f} {times[len(times) // 2]:.2f} {times[-1]:.2f}; {largest:.1e}"
            f" of {len(times)}"
        )
    print("\n".join(wrong) or "none is beyond its bound")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
