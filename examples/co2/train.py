"""Train the CO2 forecaster of `make demo` and write the files that the C program reads.

    pip install lite-mamba==0.2.6 torch einops numpy safetensors
    python examples/co2/train.py

The model sees one week of the Mauna Loa series at a time and says how much the concentration will
have changed 13 weeks later. It has a linear input map, three lite-mamba layers of three kinds with
residual connections, and a linear output map; everything in it is causal, so it can run as a stream.

Time is split once. Weeks whose target lies before 1986 train the weights, targets in 1986-1989
choose when to stop, and forecasts made from 1990 on are the test: nothing here looks at them before
the last evaluation.
"""

import csv
import math
import pathlib
import sys
import time

import numpy as np
import torch
from lite_mamba import BaselineMamba, PTCNMamba, STCNMamba
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "bindings" / "python"))
from export import save_model  # noqa: E402

HORIZON = 13  # weeks ahead
YEAR = 52  # weeks
VALIDATION_START = "1986-01-01"
TEST_START = "1990-01-01"

D_MODEL = 16
LAYERS = [
    # With d_conv = 4 the widest PTCN branch reads 0, 13, 26 and 39 weeks back: the last of these is
    # the season that will have come round again when the forecast falls due.
    (PTCNMamba, dict(d_model=D_MODEL, d_state=8, d_conv=4, conv_dilations=(1, 4, 13))),
    (STCNMamba, dict(d_model=D_MODEL, d_state=8, d_conv=4, conv_dilations=(1, 2, 4))),
    (BaselineMamba, dict(d_model=D_MODEL, d_state=8, d_conv=4)),
]

SEED = 0
STEPS = 400
EVALUATE_EVERY = 20
BATCH = 8
# Weeks in one training sequence. The reference's scan costs the square of it in backward.
WINDOW = 156
WARM_UP = 52  # of these, without loss: the state starts at zero, a long stream's does not


def read_series(path):
    """The dates and the weekly means in ppm, NaN where no measurement was made."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    dates = [row["date"] for row in rows]
    return dates, np.array([float(row["co2"] or "nan") for row in rows])


def fill_gaps(co2):
    """Last week's value plus the change seen at this place a year ago: only the past is used."""
    filled = co2.copy()
    for t in range(1, len(filled)):
        if math.isnan(filled[t]):
            season = filled[t - YEAR] - filled[t - YEAR - 1] if t > YEAR else 0.0
            filled[t] = filled[t - 1] + season
    return filled


def features(co2):
    """(weeks, 5), all in ppm or within ±1, so that no normalisation constants are needed."""
    rows = []
    for t in range(len(co2)):
        angle = 2.0 * math.pi * 7.0 * t / 365.2425
        last_year = co2[max(0, t - YEAR + 1) : t + 1]
        rows.append(
            [
                co2[t] - sum(last_year) / len(last_year),
                co2[t] - co2[max(0, t - 1)],
                co2[t] - co2[t - YEAR] if t >= YEAR else 0.0,
                math.sin(angle),
                math.cos(angle),
            ]
        )
    return torch.tensor(rows, dtype=torch.float32)


class Forecaster(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.input = nn.Linear(num_features, D_MODEL)
        self.layers = nn.ModuleList([layer(**arguments) for layer, arguments in LAYERS])
        self.output = nn.Linear(D_MODEL, 1)

    def forward(self, x):  # (batch, weeks, features) -> (batch, weeks): the change in ppm
        h = self.input(x)
        for layer in self.layers:
            h = h + layer(h)
        return self.output(h).squeeze(-1)


def rmse(error):
    return math.sqrt(np.mean(np.square(error)))


def train(model, x, change, is_train, is_validation):
    """Fit on random windows; keep the weights that do best on the validation weeks."""
    end_of_train = np.flatnonzero(is_train)[-1] + 1
    end_of_validation = np.flatnonzero(is_validation)[-1] + 1
    targets = torch.tensor(np.nan_to_num(change), dtype=torch.float32)
    mask = torch.tensor(is_train, dtype=torch.float32)

    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=STEPS)
    best, best_weights = math.inf, None
    start_time = time.monotonic()
    for step in range(1, STEPS + 1):
        starts = torch.randint(0, end_of_train - WINDOW + 1, (BATCH, 1))
        weeks = starts + torch.arange(WINDOW)
        counts = mask[weeks]
        counts[:, :WARM_UP] = 0.0
        loss = (counts * (model(x[weeks]) - targets[weeks]) ** 2).sum() / counts.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()

        if step % EVALUATE_EVERY == 0:
            with torch.no_grad():  # as a stream: from the first week on, one state throughout
                predicted = model(x[None, :end_of_validation])[0].numpy()
            error = (predicted - change[:end_of_validation])[is_validation[:end_of_validation]]
            if rmse(error) < best:
                best = rmse(error)
                best_weights = {name: value.clone() for name, value in model.state_dict().items()}
            print(
                f"step {step:4d}  {time.monotonic() - start_time:4.0f} s"
                f"  training {math.sqrt(loss.item()):.3f} ppm  validation {rmse(error):.3f} ppm",
                flush=True,
            )
    model.load_state_dict(best_weights)
    print(f"kept the weights with {best:.3f} ppm on the validation weeks")


def save_maps(model, path):
    """The linear maps again, as text: C reads them with fscanf. Nine digits bring back every bit."""
    with open(path, "w") as file:
        for name, value in model.state_dict().items():
            if name.startswith(("input.", "output.")):
                numbers = " ".join(f"{number:.9g}" for number in value.flatten().tolist())
                file.write(f"{name} {value.numel()} {numbers}\n")


def save_reference(dates, change, path):
    with open(path, "w") as file:
        file.write("# PyTorch's own output for every streamed week: the change in ppm, 13 weeks ahead.\n")
        file.write("date,change\n")
        for date, value in zip(dates, change.tolist()):
            file.write(f"{date},{value:.9g}\n")


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(2)

    dates, measured = read_series(HERE / "co2_weekly.csv")
    co2 = fill_gaps(measured)
    x = features(co2)

    # What the model is to say in week t: how far the measurement of week t + 13 lies from today's
    # value. Weeks whose target was not measured are neither trained on nor scored.
    weeks = len(co2)
    change = np.full(weeks, np.nan)
    change[:-HORIZON] = measured[HORIZON:] - co2[:-HORIZON]
    due = np.array(dates[HORIZON:] + ["9999-12-31"] * HORIZON)
    scored = ~np.isnan(change)
    is_train = scored & (due < VALIDATION_START)
    is_validation = scored & (due >= VALIDATION_START) & (due < TEST_START)
    is_test = scored & (np.array(dates) >= TEST_START)

    model = Forecaster(x.shape[1])
    print(f"{sum(p.numel() for p in model.parameters())} parameters;", end=" ")
    print(f"{is_train.sum()} weeks to train, {is_validation.sum()} to validate, {is_test.sum()} to test")
    train(model, x, change, is_train, is_validation)

    with torch.no_grad():
        predicted = model(x[None])[0].numpy()
    forecasts = {"model": predicted, "persistence": np.zeros(weeks)}
    forecasts["seasonal naive"] = np.full(weeks, np.nan)
    forecasts["seasonal naive"][YEAR:] = co2[HORIZON : weeks - YEAR + HORIZON] - co2[YEAR:]
    forecasts["seasonal naive + growth"] = np.full(weeks, np.nan)
    forecasts["seasonal naive + growth"][YEAR:] = (
        co2[HORIZON : weeks - YEAR + HORIZON] - co2[: weeks - YEAR]
    )
    print("test weeks, 13 weeks ahead:")
    for name, forecast in forecasts.items():
        error = (forecast - change)[is_test]
        print(f"  {name:24s} RMSE {rmse(error):.3f} ppm  MAE {np.abs(error).mean():.3f} ppm")

    save_model(model, HERE / "co2.safetensors")
    save_maps(model, HERE / "co2_maps.txt")
    streamed = next(t for t in range(weeks) if dates[t] >= TEST_START)
    save_reference(dates[streamed:], predicted[streamed:], HERE / "co2_reference.csv")


if __name__ == "__main__":
    main()
