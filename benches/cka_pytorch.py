"""CKA between all layers of a ResNet: the binary beside PyTorch written well, in time, peak memory and error.

    python benches/cka_pytorch.py              # needs torch, numpy and safetensors in this Python, and cargo

Both sides take the same trained weights and the same images, 256 a batch: one batch, then eight. PyTorch works without
gradients, channels last; every activation has its columns centred and becomes one U-centred Gram matrix, and one product
gives all pairs of layers. Each measurement is a fresh process; the two sides take turns, and what counts is the median
over the rounds of the ratio within a round:

process_ms, peak_mib   the whole process; PyTorch's after its imports alone stands in a row of its own
inside_ms              PyTorch from after its imports to the matrix; of ours the whole process, picture included
ms_per_batch           (inside_ms of eight batches - inside_ms of one) / 7: nothing but the comparison itself
cpu_ms_per_batch       the same of the CPU time of the process (which waiting threads of PyTorch's spend too)

Then, for one batch, the largest difference of each side's CKA from PyTorch in float64 throughout. (Of eight batches no
values are compared: ours shuffles the images first.) Rows go to benches/results/cka_pytorch.jsonl.
"""

import argparse
import json
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

import measure

BATCH, SIDE, CLASSES = 256, 32, 10
BATCHES = (1, 8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs="+", help="the measured process itself")
    arguments = parser.parse_args()
    if arguments.child:
        kind, *paths = arguments.child
        return {"images": make_images, "import": import_only, "pytorch": pytorch}[kind](*paths)
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, Path(folder))


def compare(arguments, folder):
    rows = measure.Rows(
        measure.RESULTS / "cka_pytorch.jsonl", depth=arguments.depth, batch=BATCH, threads=arguments.threads
    )
    binary, run = measure.build(), folder / "run"
    child = [sys.executable, __file__, "--child"]

    def measured(command):
        return measure.run(command, arguments.threads)

    # Few but small batches, so that the running statistics come near to those of the images.
    train = ["train", "--depth", arguments.depth, "--epochs", 1, "--batch-size", 32, "--train-images", 2048]
    measured([binary, *train, "--test-images", BATCH, "--out", run, "--quiet"])
    rows.write({"implementation": "pytorch", "what": "imports alone", **measured([*child, "import"])[1]})

    def ours(images):
        _, process = measured(
            [binary, "cka", run, "--data", images, "--passes", 1, "--out", images / "gramscope", "--quiet"]
        )
        return {"inside_ms": process["process_ms"]} | process

    def theirs(images, dtype="float32"):
        text, process = measured([*child, "pytorch", run, images, dtype])
        return json.loads(text) | process

    measured_rows = []
    for batches in BATCHES:
        images = folder / f"images{batches}"
        measured([*child, "images", images, batches * BATCH])
        sides = {"gramscope": lambda: ours(images), "pytorch": lambda: theirs(images)}
        of_batches = []
        for row in measure.alternate(sides, arguments.rounds):
            rows.write({"batches": batches, **row})
            of_batches.append(row)
        keys = ("process_ms", "inside_ms", "process_cpu_ms", "peak_mib")
        rows.write({"batches": batches, "what": "gramscope / pytorch", **measure.ratios(of_batches, keys)})
        measured_rows.append(of_batches)

    slopes = [slope(one, several) for one, several in zip(*measured_rows)]
    keys = ("ms_per_batch", "cpu_ms_per_batch")
    rows.write({"what": "gramscope / pytorch", **measure.medians(slopes, keys), **measure.ratios(slopes, keys)})
    images = folder / f"images{BATCHES[0]}"
    theirs(images, "float64")
    rows.write({"batches": BATCHES[0], "what": "largest difference from float64", **differences(images)})


def slope(one, several):
    """What one more batch takes, from a row of one batch and a row of several."""
    more = BATCHES[1] - BATCHES[0]
    return {
        "implementation": one["implementation"],
        "ms_per_batch": (several["inside_ms"] - one["inside_ms"]) / more,
        "cpu_ms_per_batch": (several["process_cpu_ms"] - one["process_cpu_ms"]) / more,
    }


def differences(images):
    """Of each side's matrix from that of PyTorch in float64; NaN must be where that has it."""
    import numpy as np

    exact = np.load(images / "float64.npy")
    matrices = {"gramscope": np.load(images / "gramscope" / "cka.npz")["cka"], "pytorch": np.load(images / "float32.npy")}
    for name, matrix in matrices.items():
        if matrix.shape != exact.shape or (np.isnan(matrix) != np.isnan(exact)).any():
            sys.exit(f"{name} is undefined elsewhere than PyTorch in float64")
    return {name: float(np.nanmax(np.abs(matrix - exact))) for name, matrix in matrices.items()}


def make_images(folder, count, side=SIDE):
    """An image folder of smooth random textures, and its test images as images.npy, [n, h, w, c] bytes."""
    import numpy as np

    folder, count, side = Path(folder), int(count), int(side)
    numbers = np.random.default_rng(0)
    coarse = numbers.random((count, side // 4, side // 4, 3), np.float32).repeat(4, 1).repeat(4, 2)
    images = (255 * (0.7 * coarse + 0.3 * numbers.random((count, side, side, 3), np.float32))).astype(np.uint8)
    for index, image in enumerate(images):
        write_png(folder / "test" / f"class{index % CLASSES}" / f"{index:05}.png", image)
    for index, image in enumerate(images[: 2 * CLASSES]):
        write_png(folder / "train" / f"class{index % CLASSES}" / f"{index}.png", image)
    np.save(folder / "images.npy", images)


def write_png(path, image):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", len(image), len(image), 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def import_only():
    import numpy  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401


def pytorch(run, images, dtype):
    """Computes the CKA matrix, saves it beside the images, prints the time."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    from pytorch_resnet import ResNet

    start = time.perf_counter()
    run, folder, dtype = Path(run), Path(images), getattr(torch, dtype)
    checkpoint = load_file(run / "checkpoints" / "latest.safetensors")
    blocks = {name.split(".")[1] for name in checkpoint if name.startswith("stage1.")}
    network = ResNet(6 * len(blocks) + 2, classes=len(checkpoint["logits.bias"]))
    network.load(checkpoint)
    network = network.to(dtype).eval().to(memory_format=torch.channels_last)
    images = torch.from_numpy(np.load(folder / "images.npy")).permute(0, 3, 1, 2)  # channels last as it is
    with torch.no_grad():
        hsic = sum(hsic_of_batch(network, batch.to(dtype) / 255) for batch in images.split(BATCH))
    scale = hsic.diagonal().sqrt()
    cka = (hsic / scale / scale[:, None]).numpy()
    inside_ms = 1e3 * (time.perf_counter() - start)
    np.save(folder / f"{str(dtype).removeprefix('torch.')}.npy", cka)
    print(json.dumps({"inside_ms": inside_ms}))


def hsic_of_batch(network, images):
    """HSIC_1 of all pairs of layers, but for its factor."""
    import torch

    grams = []

    def observe(_, output):
        x = output.permute(0, 2, 3, 1).flatten(1) if output.dim() == 4 else output  # a view: it is channels last
        x = x.float() if x.dtype == torch.bfloat16 else x  # whose eight bits are not enough for what follows
        x = x - x.mean(0)
        grams.append(u_centred(x @ x.T).flatten())

    network(images, observe)
    panel = torch.stack(grams)
    return (panel @ panel.T).double()


def u_centred(gram):
    """In place; Szekely and Rizzo 2014."""
    n = len(gram)
    gram.fill_diagonal_(0)
    means = gram.sum(1) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    gram -= means
    gram -= means[:, None]
    return gram.fill_diagonal_(0)


if __name__ == "__main__":
    main()
