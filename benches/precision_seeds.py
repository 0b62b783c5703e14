"""Accuracy by the network's arithmetic, over seeds: the same network trained from the same seeds in each precision.

    python benches/precision_seeds.py --device cuda:0                  # a ResNet-20, five seeds, f32, tf32 and bf16
    python benches/precision_seeds.py --binary target/release/gramscope --device cuda --baseline-device cpu --precision f32 bf16 \\
        --depth 8 --width 0.5 --data image_side=16 train_images=1280 test_images=1000 \\
        --train epochs=8 batch_size=16 learning_rate=0.05 crop_padding=1 --seeds 8

A seed's weights, order and augmentation are the same in every precision, so that what counts is the difference within a seed: its
mean over the seeds, with the standard error of that, against the first precision. The runs are those of `gramscope sweep`, kept in
--runs, where the same command goes on. Rows, one a run and one a difference, go to precision_seeds.jsonl in benches/results/, or where
--out says. Needs nothing but Python.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import measure

PRECISIONS = ["f32", "tf32", "bf16"]
MEASURES = ["test_accuracy", "train_loss", "test_loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the plan's [data]")
    parser.add_argument("--train", nargs="*", default=["epochs=10"], metavar="KEY=VALUE", help="settings of the plan's [train]")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="the first is the baseline")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--baseline-device", help="of the first precision, where that is another")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once on a GPU")
    parser.add_argument("--binary", type=Path, help="a built gramscope; else cargo builds one")
    parser.add_argument("--runs", type=Path, help="where the runs are kept; else they are not")
    parser.add_argument("--out", type=Path, default=measure.RESULTS, help="the folder of the rows")
    arguments = parser.parse_args()

    common = {key: getattr(arguments, key) for key in ("depth", "width")}
    common |= dict(settings(arguments.data + arguments.train))
    rows = measure.Rows(arguments.out / "precision_seeds.jsonl", bench="precision_seeds", **common)
    binary = arguments.binary or measure.build()
    with tempfile.TemporaryDirectory() as kept:
        runs = arguments.runs or Path(kept)
        runs.mkdir(parents=True, exist_ok=True)
        plan = runs / "plan.toml"
        plan.write_text(plan_of(arguments))
        ends = []
        for number, precision in enumerate(arguments.precision):
            device = arguments.baseline_device if number == 0 and arguments.baseline_device else arguments.device
            how = ["--device", device, "--precision", precision]
            if device != "cpu":
                how += ["--jobs", str(arguments.jobs)]
            subprocess.run([binary, "sweep", plan, "--out", runs / precision, *how], check=True)
            ends.append([last_epoch(run) for run in sorted((runs / precision).glob("*-s*"), key=seed)])
            for place, end in enumerate(ends[-1]):
                rows.write({"precision": precision, "device": device, "seed": place, **end})
    for precision, those in list(zip(arguments.precision, ends))[1:]:
        for measured in MEASURES:
            summary(rows, measured, (arguments.precision[0], ends[0]), (precision, those))


def settings(pairs):
    """Keys and values of KEY=VALUE, as TOML and JSON both have numbers and words."""
    for pair in pairs:
        key, value = pair.split("=", 1)
        try:
            yield key, json.loads(value)
        except json.JSONDecodeError:
            yield key, value


def plan_of(arguments):
    """A plan of one network from several seeds."""
    table = lambda name, pairs: f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings(pairs))
    family = [f"depth=[{arguments.depth}]", f"width=[{arguments.width}]", f"seed={list(range(arguments.seeds))}"]
    return table("data", arguments.data) + table("train", arguments.train) + table("family", family)


def seed(run):
    return int(run.name.rsplit("-s", 1)[1])


def last_epoch(run):
    """What a run's last epoch came to."""
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return {key: last[key] for key in ["train_accuracy", *MEASURES]}


def summary(rows, measured, baseline, other):
    """The mean of the differences within a seed, with its standard error (none for one seed)."""
    (base, of_base), (name, of_other) = baseline, other
    differences = [b[measured] - a[measured] for a, b in zip(of_base, of_other, strict=True)]
    n = len(differences)
    error = statistics.stdev(differences) / n**0.5 if n > 1 else None
    means = [statistics.fmean(run[measured] for run in runs) for runs in (of_base, of_other)]
    difference = statistics.fmean(differences)
    rows.write({
        "summary": True, "measured": measured, "precision": name, "baseline": base, "seeds": n, "mean": means[1],
        "baseline_mean": means[0], "difference": difference, "standard_error": error,
    })
    spread = "" if error is None else f" +- {error:.4f}"
    print(f"{measured}, {n} seeds: {base} {means[0]:.4f}, {name} {means[1]:.4f}, difference {difference:+.4f}{spread}")


if __name__ == "__main__":
    main()
