"""CKA between all layers of a ResNet: the binary beside PyTorch written well, pytorch-cka and torch_cka, on a CPU or a GPU.

    python benches/cka_libraries.py                    # needs torch, numpy, safetensors, pytorch-cka==1.1.3, torch_cka==0.21
    python benches/cka_libraries.py --device cuda

All sides take the same trained weights (the run's checkpoint, a safetensors file) and the same images, in one batch and in
several. Every layer's output passes through a module of its own, so that the libraries, which hook modules, see the layers
that the binary sees. Each measurement is a fresh process; the sides take turns.

ms_per_batch      (inside_ms of several batches - inside_ms of one) / (their number - 1): forward pass and comparison; the
                  median over the rounds
peak_device_mib   the most that nvidia-smi says the process holds on the GPU, its context included; null on a CPU
peak_mib          the most that it holds on the host
worst_error       of the CKA of one batch, from PyTorch in float64 throughout (on the CPU). (Of several batches no values are
                  compared: the binary shuffles the images first.)

pytorch-cka and torch_cka are called as their documentation does, torch_cka in torch.no_grad() besides. A side that is not
installed, or fails, is left out, and its row says why; where that is the binary, the script fails at the end. Rows go to benches/results/cka_libraries.jsonl, or where --out says.
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

MODULES = {"gramscope": (), "pytorch": ("torch",), "pytorch-cka": ("torch", "cka"), "torch_cka": ("torch", "torch_cka")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=4, help="of the longer measurement, at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--binary", type=Path, help="a built gramscope; else cargo builds one")
    parser.add_argument("--out", type=Path, default=measure.RESULTS, help="the folder of the rows")
    parser.add_argument("--child", nargs="+", help="the measured process itself")
    arguments = parser.parse_args()
    if arguments.child:
        kind, *rest = arguments.child
        return make_images(*rest) if kind == "images" else compute(kind, *rest)
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, Path(folder))


def compare(arguments, folder):
    n, device = arguments.batch_size, arguments.device
    common = {"depth": arguments.depth, "batch": n, "threads": arguments.threads, "device": device}
    rows = measure.Rows(arguments.out / "cka_libraries.jsonl", **common)
    binary, run = arguments.binary or measure.build(), folder / "run"
    child = [sys.executable, __file__, "--child"]

    def measured(command, on="cpu"):
        return measure.run(command, arguments.threads, on, fatal=False)

    # Few but small batches, so that the running statistics come near to those of the images.
    train = ["train", "--depth", arguments.depth, "--epochs", 1, "--batch-size", 32, "--train-images", 1024]
    measured([binary, *train, "--test-images", 256, "--out", run, "--quiet"])

    def side(name, images):
        out = images / f"{name}.npy"
        if name == "gramscope":
            cka = ["cka", run, "--data", images, "--passes", 1, "--batch-size", n, "--device", device]
            _, process = measured([binary, *cka, "--out", images / name, "--quiet"], device)
            return {"inside_ms": process["process_ms"]} | process
        text, process = measured([*child, name, run, images, n, device, out], device)
        return json.loads(text.splitlines()[-1]) | process

    counts, folders, found = (1, arguments.batches), [], {name: [] for name in arguments.sides}
    for batches in counts:
        folders.append(folder / f"images{batches}")
        measured([*child, "images", folders[-1], batches * n])
    failed = {name: missing for name in arguments.sides if (missing := without(name))}
    for number in range(arguments.rounds):
        for name in (name for name in arguments.sides if name not in failed):
            try:
                one, several = (side(name, images) for images in folders)
            except RuntimeError as error:
                failed[name] = str(error)
                continue
            for batches, row in zip(counts, (one, several)):
                rows.write({"implementation": name, "round": number, "batches": batches, **row})
            found[name].append((several, (several["inside_ms"] - one["inside_ms"]) / (counts[1] - 1)))
    measured([*child, "pytorch", run, folders[0], n, "cpu", folders[0] / "float64.npy", "float64"])
    table = [summary(rows, name, found[name], folders[0], failed.get(name)) for name in arguments.sides]
    print_table(table)
    if "gramscope" in failed:
        sys.exit(failed["gramscope"])


def without(name):
    """What keeps a side from being measured: a module that is not installed."""
    missing = [module for module in MODULES[name] if importlib.util.find_spec(module) is None]
    return f"no module {missing[0]}" if missing else None


def summary(rows, name, found, images, failure):
    """Writes and returns what the rounds of one side come to."""
    row = {"implementation": name, "what": "summary"}
    if failure:
        row |= {"failure": failure}
    else:
        row["ms_per_batch"] = statistics.median(slope for _, slope in found)
        row["peak_mib"] = max(several["peak_mib"] for several, _ in found)
        row["peak_device_mib"] = max((several["peak_device_mib"] or 0 for several, _ in found), default=0) or None
        row |= error(name, images)
    rows.write(row)
    return row


def error(name, images):
    """The largest difference from PyTorch in float64, and how many entries are defined on one side alone."""
    import numpy as np

    exact = np.load(images / "float64.npy")
    matrix = np.load(images / name / "cka.npz")["cka"] if name == "gramscope" else np.load(images / f"{name}.npy")
    if matrix.shape != exact.shape:
        return {"worst_error": None, "shape": list(matrix.shape)}
    undefined = int((np.isnan(matrix) != np.isnan(exact)).sum())
    return {"worst_error": float(np.nanmax(np.abs(matrix - exact))), "undefined_on_one_side": undefined}


def print_table(table):
    print("\n| | ms a batch | peak on the device, MiB | peak on the host, MiB | worst error |\n| --- | --- | --- | --- | --- |")
    for row in table:
        if "failure" in row:
            print(f"| {row['implementation']} | left out: {row['failure']} | | | |")
            continue
        device = f"{row['peak_device_mib']:.0f}" if row["peak_device_mib"] else "-"
        worst = "other layers" if row["worst_error"] is None else f"{row['worst_error']:.1e}"
        name, ms, host = row["implementation"], row["ms_per_batch"], row["peak_mib"]
        print(f"| {name} | {ms:.1f} | {device} | {host:.0f} | {worst} |")


def compute(kind, run, images, batch, device, out, dtype="float32"):
    """One side in Python: computes the CKA matrix, saves it, prints the time after imports and loading."""
    import numpy as np
    import torch

    warnings.simplefilter("ignore")
    batch, dtype = int(batch), getattr(torch, dtype)
    model = tapped(Path(run)).to(dtype).eval().to(memory_format=torch.channels_last).to(device)
    images = torch.from_numpy(np.load(Path(images) / "images.npy")).permute(0, 3, 1, 2).to(dtype) / 255
    library = {"pytorch": plain, "pytorch-cka": by_pytorch_cka, "torch_cka": by_torch_cka}[kind]
    start = time.perf_counter()
    with torch.no_grad():
        matrix = library(model, images, batch, device).cpu().numpy()
    inside_ms = 1e3 * (time.perf_counter() - start)
    np.save(out, matrix)
    print(json.dumps({"inside_ms": inside_ms}))


def tapped(run):
    """The run's network, every layer's output of which passes through a module of its own."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    from pytorch_resnet import ResNet

    checkpoint = load_file(run / "checkpoints" / "latest.safetensors")
    blocks = {name.split(".")[1] for name in checkpoint if name.startswith("stage1.")}
    network = ResNet(6 * len(blocks) + 2, classes=len(checkpoint["logits.bias"]))
    network.load(checkpoint)
    names = []
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32), lambda name, _: names.append(name))

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


def loader(images, batch):
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(images), batch_size=batch)


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
