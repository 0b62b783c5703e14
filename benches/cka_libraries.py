"""CKA between all layers of a ResNet: the binary beside PyTorch written well, pytorch-cka and torch_cka, on a CPU or a GPU.

    python benches/cka_libraries.py                    # needs torch, numpy, safetensors, pytorch-cka==1.1.3, torch_cka==0.21
    python benches/cka_libraries.py --device cuda --precision f32 tf32 bf16 -- 20x1 110x1 38x10
    python benches/cka_libraries.py --device cuda --precision tf32 bf16 --family imagenet -- 50x1

All sides take the same trained weights (a run's checkpoint, a safetensors file) and the same batch of images, again and again,
which lies where the network runs before the clock starts. Each measurement is a fresh process; the sides take turns.

ms_per_batch      forward pass and comparison; of the ...-forward sides the forward pass alone; the median over the rounds. Ours:
                  (a process with many passes over the batch - one with a single pass) / (their number - 1), of which there are as
                  many as take two seconds, for a start takes some milliseconds more or less. PyTorch's sides: within a process,
                  the median of calls over several batches, again for two seconds, after one that does not count, in which
                  libraries load and cuDNN chooses; the GPU is waited for at either end
peak_device_mib   how much more the GPU holds at most, the process's context included; null on a CPU
peak_mib          the most that it holds on the host
worst_error       of the CKA of one batch, from PyTorch in float64 throughout; absent where that failed

What the target is about is CKA without the forward pass: for every other side a row of its own has the difference to a forward pass
in PyTorch as that side has it (twice that for torch_cka, which runs the network as either model), that of ours to
gramscope-forward, and how many times as long the other one takes (times_as_long). gramscope-forward is the plain pass of `gramscope
bench cka`, over a batch of its own, with untrained weights, for a pass takes as long whatever they are.

PyTorch's own sides have channels last, of which its examples are views. The libraries flatten what they are given as it lies, for
which channels last would have to be copied, so that they have their networks, and pytorch-forward-contiguous, the layout
that makes it a view. They hook modules: there every layer's output passes through a module of its own, in that forward pass too.

The precision is that of the networks, ours and PyTorch's; PyTorch's Gram matrices are float32 products, on tensor cores as TF32
but for f32. pytorch-cka and torch_cka, which come in f32 alone, are called as their documentation does, torch_cka in
torch.no_grad() besides. A side that is not installed, fails or takes too long is left out, and its row says why; where that is
the binary, the script fails at the end. Rows go to cka_libraries.jsonl (of ImageNet's family cka_libraries_imagenet.jsonl) in
benches/results, or where --out says.
"""

import argparse
import importlib.util
import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import measure
from cka_pytorch import hsic_of_batch, make_images

MODULES = {
    "gramscope": (),
    "gramscope-forward": (),
    "pytorch": ("torch",),
    "pytorch-forward": ("torch",),
    "pytorch-forward-contiguous": ("torch",),
    "pytorch-cka": ("torch", "cka"),
    "torch_cka": ("torch", "torch_cka"),
}
# Those in f32 alone, contiguous and with modules for what is hooked.
CONTIGUOUS = ("pytorch-cka", "torch_cka", "pytorch-forward-contiguous")
# What is taken off, and how often: torch_cka runs both models, whichever they are.
FORWARD = {
    "gramscope": ("gramscope-forward", 1),
    "pytorch": ("pytorch-forward", 1),
    "pytorch-cka": ("pytorch-forward-contiguous", 1),
    "torch_cka": ("pytorch-forward-contiguous", 2),
}
PRECISIONS = ("f32", "tf32", "bf16")
SIDES_OF_IMAGES = {"cifar": 32, "imagenet": 224}
# What is timed at least, and batches of one measurement at most.
TIMED_SECONDS, MOST_BATCHES = 2, 2000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["20x1"], metavar="DEPTHxWIDTH", help="20x1 unless others are named")
    parser.add_argument("--family", choices=SIDES_OF_IMAGES, default="cifar")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["f32"], help="tf32 and bf16 on a GPU only")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=120, help="after which a process is stopped")
    parser.add_argument("--sides", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--binary", type=Path, help="a built gramscope; else cargo builds one")
    parser.add_argument("--out", type=Path, default=measure.RESULTS, help="the folder of the rows")
    parser.add_argument("--child", nargs="+", help="the measured process itself")
    arguments = parser.parse_args()
    if arguments.child:
        kind, *rest = arguments.child
        return make_images(*rest) if kind == "images" else compute(kind, *rest)
    common = {key: getattr(arguments, key) for key in ("family", "batch_size", "threads", "device")}
    suffix = "_imagenet" if arguments.family == "imagenet" else ""
    rows = measure.Rows(arguments.out / f"cka_libraries{suffix}.jsonl", **common)
    arguments.binary = arguments.binary or measure.build()
    table, failed = [], []
    for network in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            try:
                table += (found := compare(network, arguments, rows, Path(folder)))
            except RuntimeError as error:  # of what all sides need
                rows.write({"network": network, "what": "preparation", "failure": str(error)})
                failed.append(str(error))
                continue
        failed += [row["failure"] for row in found if "failure" in row and row["implementation"].startswith("gramscope")]
    print_table(table)
    if failed:
        sys.exit("\n".join(failed))


def compare(network, arguments, rows, folder):
    """Measures all sides of one network, in every precision, and returns what their rounds come to."""
    n, device, family = arguments.batch_size, arguments.device, arguments.family
    images, exact = folder / "images", folder / "images" / "float64.npy"
    child = [sys.executable, __file__, "--child"]
    passes = {}

    def measured(command, on="cpu"):
        return measure.run(command, arguments.threads, on, fatal=False, seconds=arguments.seconds)

    def bench(precision):
        """What a plain pass and a comparison take in `gramscope bench cka`, by their names there."""
        depth, width = network.split("x")
        size = ["--family", family, "--depth", depth, "--width", width, "--batch-size", n, "--precision", precision]
        command = [arguments.binary, "--quiet", "bench", "cka", *size, "--device", device, "--json", "/dev/stdout"]
        text, process = measured(command, device)
        return {row["variant"]: row["batch_ms"] for row in map(json.loads, text.splitlines())}, process

    def ours(precision):
        if precision not in passes:
            taken, _ = bench(precision)
            passes[precision] = 1 + max(3, min(MOST_BATCHES, math.ceil(1e3 * TIMED_SECONDS / taken["exact"])))

        def cka(count, out):
            command = [arguments.binary, "cka", run, "--data", images, "--passes", count, "--batch-size", n, "--device", device]
            return measured([*command, "--precision", precision, "--out", out, "--quiet"], device)[1]

        one = cka(1, images / f"gramscope-{precision}")
        several = cka(passes[precision], images / "several")
        ms = (several["process_ms"] - one["process_ms"]) / (passes[precision] - 1)
        return {"ms_per_batch": ms, "passes": passes[precision], "ms_of_one_pass": one["process_ms"]} | several

    def side(name, precision):
        """A row of one round."""
        if name == "gramscope":
            return ours(precision)
        if name == "gramscope-forward":
            taken, process = bench(precision)
            return {"ms_per_batch": taken["plain"]} | process
        command = [*child, name, run, images, device, images / f"{name}-{precision}.npy", precision, network, family]
        text, process = measured(command, device)
        return json.loads(text.splitlines()[-1]) | process

    measured([*child, "images", images, n, SIDES_OF_IMAGES[family]])
    run = train(network, arguments, images, folder / "run", measured)
    try:
        measured([*child, "pytorch", run, images, device, exact, "float64", network, family])
    except RuntimeError as error:
        rows.write({"network": network, "what": "float64", "failure": str(error)})
    summaries = []
    for precision in arguments.precision:
        names = [name for name in arguments.sides if precision == "f32" or name not in CONTIGUOUS]
        failed, found = {name: missing for name in names if (missing := without(name))}, {name: [] for name in names}
        for number in range(arguments.rounds):
            for name in (name for name in names if name not in failed):
                try:
                    found[name].append(side(name, precision))
                except RuntimeError as error:
                    failed[name] = str(error)
                    continue
                key = {"network": network, "implementation": name, "precision": precision, "round": number}
                rows.write({**key, **found[name][-1]})
        of_precision = [summary(network, name, precision, found[name], images, failed.get(name)) for name in names]
        of_precision += [row for name in names if (row := without_forward(network, name, precision, found))]
        for row in of_precision:
            rows.write(row)
        summaries += of_precision
    return summaries


def train(network, arguments, images, run, measured):
    """A run whose running statistics come near to those of the images: few but small batches."""
    depth, width = network.split("x")
    common = ["--family", arguments.family, "--depth", depth, "--width", width, "--device", arguments.device]
    if arguments.family == "imagenet":
        data = ["--data", images, "--image-side", SIDES_OF_IMAGES["imagenet"], "--epochs", 4, "--batch-size", 4]
    else:
        data = ["--train-images", 1024, "--test-images", 256, "--epochs", 1, "--batch-size", 32]
    measured([arguments.binary, "train", *common, *data, "--out", run, "--quiet"])
    return run


def without(name):
    """What keeps a side from being measured: a module that is not installed."""
    missing = [module for module in MODULES[name] if importlib.util.find_spec(module) is None]
    return f"no module {missing[0]}" if missing else None


def summary(network, name, precision, found, images, failure):
    """What the rounds of one side come to."""
    row = {"network": network, "implementation": name, "precision": precision, "what": "summary"}
    if failure:
        row |= {"failure": failure}
    if found:
        row["ms_per_batch"] = statistics.median(of["ms_per_batch"] for of in found)
        row["peak_mib"] = max(of["peak_mib"] for of in found)
        row["peak_device_mib"] = max(of["peak_device_mib"] or 0 for of in found) or None
        if name in FORWARD:
            row |= error(name, precision, images)
    return row


def without_forward(network, name, precision, found):
    """CKA of another side and of ours without the forward passes of each, and how many times as long the other takes; None for our
    own sides, for forward passes, and where one of the four is missing."""
    if name == "gramscope" or name not in FORWARD:
        return None
    forward, times = FORWARD[name]
    four = [found.get(side) for side in (name, forward, "gramscope", "gramscope-forward")]
    if not all(four):
        return None
    rounds = list(zip(*([of["ms_per_batch"] for of in side] for side in four)))
    theirs = statistics.median(theirs - times * forward for theirs, forward, _, _ in rounds)
    ours = statistics.median(ours - forward for _, _, ours, forward in rounds)
    row = {"network": network, "implementation": name, "precision": precision, "what": "CKA without the forward pass"}
    # A difference of measurements may come out as nothing or less: there is no ratio then.
    ratio = theirs / ours if min(theirs, ours) > 0 else None
    return row | {"ms_per_batch": theirs, "gramscope_ms_per_batch": ours, "times_as_long": ratio}


def error(name, precision, images):
    """The largest difference from PyTorch in float64, if that is there, and how many entries are defined on one side alone."""
    import numpy as np

    if not (images / "float64.npy").exists():
        return {}
    exact, found = np.load(images / "float64.npy"), images / f"{name}-{precision}"
    matrix = np.load(found / "cka.npz")["cka"] if name == "gramscope" else np.load(f"{found}.npy")
    if matrix.shape != exact.shape:
        return {"worst_error": None, "shape": list(matrix.shape)}
    undefined = int((np.isnan(matrix) != np.isnan(exact)).sum())
    return {"worst_error": float(np.nanmax(np.abs(matrix - exact))), "undefined_on_one_side": undefined}


def print_table(table):
    print("\n| network | | | ms a batch | peak on the device, MiB | peak on the host, MiB | worst error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in table:
        name = f"{row['network']} | {row['implementation']} | {row['precision']}"
        if "ms_per_batch" not in row:
            print(f"| {name} | left out: {row['failure']} | | | |")
            continue
        if "times_as_long" in row:
            times = "no ratio" if row["times_as_long"] is None else f"{row['times_as_long']:.1f} times as long"
            differences = f"{row['ms_per_batch']:.1f}, ours {row['gramscope_ms_per_batch']:.1f}: {times}"
            print(f"| {name}, without the forward pass | {differences} | | | |")
            continue
        device = f"{row['peak_device_mib']:.0f}" if row["peak_device_mib"] else "-"
        if "worst_error" not in row:
            worst = "-"
        else:
            worst = "other layers" if row["worst_error"] is None else f"{row['worst_error']:.1e}"
        ms, host = row["ms_per_batch"], row["peak_mib"]
        print(f"| {name} | {ms:.1f} | {device} | {host:.0f} | {worst} |")


def compute(kind, run, images, device, out, precision, network, family):
    """One side in Python: saves the CKA matrix of the batch and prints how long a batch takes."""
    import numpy as np
    import torch

    warnings.simplefilter("ignore")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision in ("tf32", "bf16")
    # Not for float64, which is computed once: trying each of its slow algorithms would take longest of all.
    torch.backends.cudnn.benchmark = precision != "float64"
    dtype = {"bf16": torch.bfloat16, "float64": torch.float64}.get(precision, torch.float32)
    layout = torch.contiguous_format if kind in CONTIGUOUS else torch.channels_last
    model = tapped(Path(run), network, family).to(dtype).eval().to(device, memory_format=layout)
    images = torch.from_numpy(np.load(Path(images) / "images.npy")).permute(0, 3, 1, 2).to(dtype) / 255
    images = images.to(device, memory_format=layout)
    library = {
        "pytorch": plain,
        "pytorch-forward": forward,
        "pytorch-cka": by_pytorch_cka,
        "torch_cka": by_torch_cka,
        "pytorch-forward-contiguous": forward_of_hooked,
    }[kind]

    def call(batches):
        """The matrix, and what a batch takes in milliseconds."""
        synchronise = torch.cuda.synchronize if device != "cpu" else lambda: None
        synchronise()
        start = time.perf_counter()
        result = library(model, [images] * batches, device)
        synchronise()
        return result, 1e3 * (time.perf_counter() - start) / batches

    with torch.no_grad():
        matrix, ms = call(1)
        np.save(out, matrix.float().cpu().numpy() if precision == "bf16" else matrix.cpu().numpy())
        if precision != "float64":
            _, ms = call(1)
            batches = max(1, min(MOST_BATCHES, math.ceil(1e3 * TIMED_SECONDS / ms / 4)))
            taken = [call(batches)[1] for _ in range(4)] if batches > 1 else [ms]
            ms = statistics.median(taken)
    print(json.dumps({"ms_per_batch": ms}))


def tapped(run, network, family):
    """The run's network, every layer's output of which passes through a module of its own."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    from pytorch_resnet import ResNet

    checkpoint = load_file(run / "checkpoints" / "latest.safetensors")
    depth, width = network.split("x")
    network = ResNet(int(depth), float(width), classes=len(checkpoint["logits.bias"]), family=family)
    network.load(checkpoint)
    names, side = [], SIDES_OF_IMAGES[family]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side), lambda name, _: names.append(name))

    class Tapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network
            self.taps = nn.ModuleDict({name.replace(".", "-"): nn.Identity() for name in names})

        def forward(self, images):
            return self.network(images, lambda name, output: self.taps[name.replace(".", "-")](output))

        def layers(self):
            return [f"taps.{name}" for name in self.taps]

    return Tapped()


def plain(model, batches, device):
    """PyTorch written well: a centred Gram matrix a layer, one product for all pairs."""
    hsic = sum(hsic_of_batch(model.network, batch) for batch in batches)
    scale = hsic.diagonal().sqrt()
    return hsic / scale / scale[:, None]


def forward(model, batches, device):
    """The logits, and nothing else."""
    return [model.network(batch) for batch in batches][-1]


def forward_of_hooked(model, batches, device):
    """The same through the modules that libraries hook."""
    return [model(batch) for batch in batches][-1]


def loader(batches):
    """Whole batches: putting them together image by image would take longer than some of what is measured."""
    from torch.utils.data import DataLoader

    return DataLoader([(batch,) for batch in batches], batch_size=None)


def by_pytorch_cka(model, batches, device):
    from cka import compute_cka

    return compute_cka(model, model, loader(batches), layers=model.layers(), device=device, progress=False)[0]


def by_torch_cka(model, batches, device):
    from torch_cka import CKA

    layers = model.layers()
    cka = CKA(model, model, model1_layers=layers, model2_layers=layers, device=device)
    cka.compare(loader(batches))
    # Its hooks stay otherwise, and the next call's would come on top.
    for module in model.modules():
        module._forward_hooks.clear()
    return cka.export()["CKA"]


if __name__ == "__main__":
    main()
