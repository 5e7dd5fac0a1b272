"""Weekly CO2 at Mauna Loa, 13 weeks ahead: a model trained in PyTorch, streamed without it.

    python forecast.py [data directory]

The model of examples/co2/train.py is a linear input map, three lite-mamba layers with residual connections
and a linear output map. The layers read everything up to the end of 1989 at once; from there on each week
is one step per layer.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from lite_mamba_native import Cache, Layer, build_info

HORIZON, YEAR = 13, 52


def read_csv(path):
    """Dates and numbers of a CSV file, NaN where there is none."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    dates, numbers = zip(*csv.reader(lines[1:]))
    return list(dates), np.array([float(number or "nan") for number in numbers])


def fill_gaps(measured):
    """A gap takes last week's value plus the change seen at this place a year ago."""
    co2 = measured.copy()
    for t in np.flatnonzero(np.isnan(measured)):
        co2[t] = co2[t - 1] + (co2[t - YEAR] - co2[t - YEAR - 1] if t > YEAR else 0)
    return co2


def features_of(co2):
    """What the model sees of each week: (weeks, 5)."""
    past = np.array([co2[max(0, t - YEAR + 1) : t + 1].mean() for t in range(len(co2))])
    week = np.diff(co2, prepend=co2[0])
    year = np.concatenate([np.zeros(YEAR), co2[YEAR:] - co2[:-YEAR]])
    angle = 2 * np.pi * 7 * np.arange(len(co2)) / 365.2425
    return np.stack([co2 - past, week, year, np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def main(data):
    dates, measured = read_csv(data / "co2_weekly.csv")
    streamed_dates, reference = read_csv(data / "co2_reference.csv")
    first = dates.index(streamed_dates[0])
    co2 = fill_gaps(measured)

    layers = [Layer.load(data / "co2.safetensors", f"layers.{i}") for i in range(3)]
    caches = [Cache(layer) for layer in layers]
    maps = {
        name: np.array(values, np.float32)
        for name, _, *values in map(str.split, (data / "co2_maps.txt").read_text().splitlines())
    }
    input_weight = maps["input.weight"].reshape(layers[0].d_model, -1)
    h = features_of(co2) @ input_weight.T + maps["input.bias"]  # (weeks, d_model)

    prefix = h[:first]
    for layer, cache in zip(layers, caches):
        prefix = prefix + layer(prefix, cache)

    changes = []
    for token in h[first:]:
        for layer, cache in zip(layers, caches):
            token = token + layer.step(token, cache)
        changes.append((token @ maps["output.weight"] + maps["output.bias"]).item())

    error = (co2[first:] + changes)[:-HORIZON] - measured[first + HORIZON :]
    difference = np.abs(changes - reference).max()
    print(build_info())
    print(f"{first} weeks at once, then {len(changes)} weeks one by one")
    rmse = np.sqrt(np.nanmean(error**2))
    print(f"RMSE {rmse:.3f} ppm; largest difference from PyTorch {difference:.2g} ppm")
    return 0 if difference < 1e-4 else 1


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[3] / "examples/co2"
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
