"""CKA between all layers of a ResNet: the binary beside PyTorch written well, pytorch-cka and torch_cka, on a CPU or a GPU.

    python benches/cka_libraries.py                    # needs torch, numpy, safetensors, pytorch-cka==1.1.3, torch_cka==0.21
    python benches/cka_libraries.py --device cuda --batches 16 --precision f32 tf32 bf16 -- 20x1 110x1 38x10
    python benches/cka_libraries.py --device cuda --precision tf32 bf16 --family imagenet --batches 4 -- 50x1

All sides take the same trained weights (a run's checkpoint, a safetensors file) and the same images, in one batch and in
several. Every layer's output passes through a module of its own, so that the libraries, which hook modules, see the layers
that the binary sees. Each measurement is a fresh process; the sides take turns.

ms_per_batch      (inside_ms of several batches - inside_ms of one) / (their number - 1): forward pass and comparison; the
                  median over the rounds. Of pytorch-forward and gramscope-forward: the forward pass alone
peak_device_mib   how much more the GPU holds at most, the process's context included; null on a CPU
peak_mib          the most that it holds on the host
worst_error       of the CKA of one batch, from PyTorch in float64 throughout. (Of several batches no values are compared: the
                  binary shuffles the images first.)

What the target is about is CKA without the forward pass: for every other side a row of its own has the difference to
pytorch-forward (twice that for torch_cka, which runs the network as either model), that of ours to gramscope-forward, and how many
times as long the other one takes (times_as_long). For us the several
batches are passes over the one batch's images, which are loaded once; PyTorch's sides have theirs in memory before the clock starts,
and the libraries get them as whole batches. gramscope-forward is the plain pass of `gramscope bench cka`, over a batch of its own.

The precision is that of the networks, ours and PyTorch's; PyTorch's Gram matrices are float32 products, on tensor cores as TF32
but for f32. pytorch-cka and torch_cka, which come in f32 alone, are called as their documentation does, torch_cka in
torch.no_grad() besides. A side that is not installed, fails or takes too long is left out, and its row says why; where that is
the binary, the script fails at the end. Rows go to cka_libraries.jsonl (of ImageNet's family cka_libraries_imagenet.jsonl) in
benches/results, or where --out says.
"""

import argparse
import importlib.util
import json
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
    "pytorch-cka": ("torch", "cka"),
    "torch_cka": ("torch", "torch_cka"),
}
LIBRARIES = ("pytorch-cka", "torch_cka")
FORWARD = ("gramscope-forward", "pytorch-forward")
# Forward passes a batch, where they are two: torch_cka runs both models, whichever they are.
PASSES = {"torch_cka": 2}
PRECISIONS = ("f32", "tf32", "bf16")
SIDES_OF_IMAGES = {"cifar": 32, "imagenet": 224}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["20x1"], metavar="DEPTHxWIDTH", help="20x1 unless others are named")
    parser.add_argument("--family", choices=SIDES_OF_IMAGES, default="cifar")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["f32"], help="tf32 and bf16 on a GPU only")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=4, help="of the longer measurement, at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=120, help="after which a measurement is stopped")
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
            summaries = compare(network, arguments, rows, Path(folder))
        table += summaries
        ours = [row for row in summaries if row["implementation"].startswith("gramscope")]
        failed += [row["failure"] for row in ours if "failure" in row]
    print_table(table)
    if failed:
        sys.exit("\n".join(failed))


def compare(network, arguments, rows, folder):
    """Measures all sides of one network, in every precision, and returns what their rounds come to."""
    n, device, family = arguments.batch_size, arguments.device, arguments.family
    child = [sys.executable, __file__, "--child"]

    def measured(command, on="cpu", seconds=None):
        return measure.run(command, arguments.threads, on, fatal=False, seconds=seconds)

    def side(name, precision, place):
        """One batch (place 0), or all of them (1), in a process of its own."""
        images, passes = (folders[0], counts[place]) if name == "gramscope" else (folders[place], 1)
        out = images / (f"{name}-{precision}" if place == 0 else f"{name}-{precision}-all")
        if name == "gramscope":
            cka = ["cka", run, "--data", images, "--passes", passes, "--batch-size", n, "--device", device]
            command = [arguments.binary, *cka, "--precision", precision, "--out", out, "--quiet"]
            _, process = measured(command, device, arguments.seconds)
            return {"inside_ms": process["process_ms"]} | process
        command = [*child, name, run, images, n, device, f"{out}.npy", precision, network, family]
        text, process = measured(command, device, arguments.seconds)
        return json.loads(text.splitlines()[-1]) | process

    def plain_pass(precision):
        depth, width = network.split("x")
        size = ["--family", family, "--depth", depth, "--width", width, "--batch-size", n, "--precision", precision]
        command = [arguments.binary, "--quiet", "bench", "cka", *size, "--device", device, "--json", "/dev/stdout"]
        text, process = measured(command, device, arguments.seconds)
        plain = next(row for row in map(json.loads, text.splitlines()) if row["variant"] == "plain")
        return {"inside_ms": plain["batch_ms"]} | process

    def rounds_of(name, precision):
        """The rows of a round, and the milliseconds of a batch."""
        if name == "gramscope-forward":
            row = plain_pass(precision)
            return [row], row["inside_ms"]
        one, several = (side(name, precision, place) for place in (0, 1))
        return [one, several], (several["inside_ms"] - one["inside_ms"]) / (counts[1] - 1)

    counts, folders = (1, arguments.batches), []
    for batches in counts:
        folders.append(folder / f"images{batches}")
        measured([*child, "images", folders[-1], batches * n, SIDES_OF_IMAGES[family]])
    run = train(network, arguments, folders[0], folder / "run", measured)
    sides = [
        (name, precision)
        for precision in arguments.precision
        for name in arguments.sides
        if precision == "f32" or name not in LIBRARIES
    ]
    failed, found = {of: missing for of in sides if (missing := without(of[0]))}, {of: [] for of in sides}
    for number in range(arguments.rounds):
        for of in (of for of in sides if of not in failed):
            try:
                measurements, ms = rounds_of(*of)
            except RuntimeError as error:
                failed[of] = str(error)
                continue
            key = {"network": network, "implementation": of[0], "precision": of[1], "round": number}
            for batches, row in zip(counts, measurements):
                rows.write({**key, "batches": batches, **row})
            found[of].append((measurements[-1], ms))
    exact = folders[0] / "float64.npy"
    measured([*child, "pytorch", run, folders[0], n, device, exact, "float64", network, family])
    summaries = [summary(rows, network, of, found[of], folders[0], failed.get(of)) for of in sides]
    slopes = {of: [ms for _, ms in found[of]] for of in sides if of not in failed}
    beside_forward = [row for of in sides if (row := without_forward(network, of, slopes))]
    for row in beside_forward:
        rows.write(row)
    return summaries + beside_forward


def train(network, arguments, images, run, measured):
    """A run whose running statistics come near to those of the images: few but small batches."""
    depth, width = network.split("x")
    common = ["--family", arguments.family, "--depth", depth, "--width", width, "--device", arguments.device]
    if arguments.family == "imagenet":
        data = ["--data", images, "--image-side", SIDES_OF_IMAGES["imagenet"], "--epochs", 4, "--batch-size", 4]
    else:
        data = ["--train-images", 1024, "--test-images", 256, "--epochs", 1, "--batch-size", 32]
    measured([arguments.binary, "train", *common, *data, "--out", run, "--quiet"], arguments.device)
    return run


def without(name):
    """What keeps a side from being measured: a module that is not installed."""
    missing = [module for module in MODULES[name] if importlib.util.find_spec(module) is None]
    return f"no module {missing[0]}" if missing else None


def summary(rows, network, of, found, images, failure):
    """Writes and returns what the rounds of one side come to."""
    row = {"network": network, "implementation": of[0], "precision": of[1], "what": "summary"}
    if failure:
        row |= {"failure": failure}
    else:
        row["ms_per_batch"] = statistics.median(slope for _, slope in found)
        row["peak_mib"] = max(several["peak_mib"] for several, _ in found)
        row["peak_device_mib"] = max((several["peak_device_mib"] or 0 for several, _ in found), default=0) or None
        if of[0] not in FORWARD:
            row |= error(*of, images)
    rows.write(row)
    return row


def without_forward(network, of, slopes):
    """CKA of another side and of ours without the forward passes of each, and how many times as long the other takes; None for our own
    sides, and where one of the four is missing."""
    name, precision = of
    four = [of] + [(other, precision) for other in ("pytorch-forward", "gramscope", "gramscope-forward")]
    if name == "gramscope" or name in FORWARD or any(side not in slopes for side in four):
        return None
    rounds = list(zip(*(slopes[side] for side in four)))
    theirs = statistics.median(theirs - PASSES.get(name, 1) * forward for theirs, forward, _, _ in rounds)
    ours = statistics.median(ours - forward for _, _, ours, forward in rounds)
    row = {"network": network, "implementation": name, "precision": precision, "what": "CKA without the forward pass"}
    # A difference of measurements may come out as nothing or less: there is no ratio then.
    times = theirs / ours if min(theirs, ours) > 0 else None
    return row | {"ms_per_batch": theirs, "gramscope_ms_per_batch": ours, "times_as_long": times}


def error(name, precision, images):
    """The largest difference from PyTorch in float64, and how many entries are defined on one side alone."""
    import numpy as np

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
        if "failure" in row:
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


def compute(kind, run, images, batch, device, out, precision, network, family):
    """One side in Python: computes the CKA matrix, saves it, prints the time after imports and loading."""
    import numpy as np
    import torch

    warnings.simplefilter("ignore")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision in ("tf32", "bf16")
    torch.backends.cudnn.benchmark = True
    batch, dtype = int(batch), {"bf16": torch.bfloat16, "float64": torch.float64}.get(precision, torch.float32)
    model = tapped(Path(run), network, family).to(dtype).eval().to(memory_format=torch.channels_last).to(device)
    images = torch.from_numpy(np.load(Path(images) / "images.npy")).permute(0, 3, 1, 2).to(dtype) / 255
    sides = {"pytorch": plain, "pytorch-forward": forward, "pytorch-cka": by_pytorch_cka, "torch_cka": by_torch_cka}
    library = sides[kind]
    start = time.perf_counter()
    with torch.no_grad():
        matrix = library(model, images, batch, device).cpu().numpy()
    inside_ms = 1e3 * (time.perf_counter() - start)
    np.save(out, matrix)
    print(json.dumps({"inside_ms": inside_ms}))


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

        def forward(self, images, observe=None):
            def tap(name, output):
                output = self.taps[name.replace(".", "-")](output)
                if observe:
                    observe(name, output)

            return self.network(images, tap)

        def layers(self):
            return [f"taps.{name}" for name in self.taps]

    return Tapped()


def plain(model, images, batch, device):
    """PyTorch written well: a centred Gram matrix a layer, one product for all pairs."""
    hsic = sum(hsic_of_batch(model, part.to(device)) for part in images.split(batch))
    scale = hsic.diagonal().sqrt()
    return hsic / scale / scale[:, None]


def forward(model, images, batch, device):
    """The logits, and nothing else."""
    import torch

    return torch.cat([model(part.to(device)) for part in images.split(batch)])


def loader(images, batch):
    """Whole batches: putting them together image by image would take longer than some of what is measured."""
    from torch.utils.data import DataLoader

    return DataLoader([(part,) for part in images.split(batch)], batch_size=None)


def by_pytorch_cka(model, images, batch, device):
    from cka import compute_cka

    return compute_cka(model, model, loader(images, batch), layers=model.layers(), device=device, progress=False)[0]


def by_torch_cka(model, images, batch, device):
    from torch_cka import CKA

    layers = model.layers()
    cka = CKA(model, model, model1_layers=layers, model2_layers=layers, device=device)
    cka.compare(loader(images, batch))
    return cka.export()["CKA"]


if __name__ == "__main__":
    main()
