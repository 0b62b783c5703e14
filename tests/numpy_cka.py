"""Recomputes results of `gramscope cka --activations` in plain float64 NumPy.

    python3 tests/numpy_cka.py RESULT [RESULT ...]

Each RESULT is a directory with cka.npz and cka.json; the activations are read from where cka.json says they lie. Prints the
largest difference of each and exits with 1 where one is above the tolerance of its `gram` setting, or where NaN stands
against a number. Needs NumPy alone. Shares no code and no method with Gramscope beyond the definitions: features are
shifted by their median, distances are differences of rows.
"""

import json
import sys
from pathlib import Path

import numpy as np

TOLERANCE = {"exact": 1e-6, "fast": 1e-3}


def read_safetensors(path):
    """The tensors of a safetensors file as float64 arrays [examples, features]."""
    content = Path(path).read_bytes()
    header_length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, tensor in header.items():
        begin, end = (8 + header_length + offset for offset in tensor["data_offsets"])
        tensors[name] = as_float64(content[begin:end], tensor["dtype"]).reshape(tensor["shape"][0], -1)
    return tensors


def as_float64(data, dtype):
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float64)


def gram(x, kernel):
    if kernel == "linear":
        x = x - np.median(x, axis=0)
        return x @ x.T
    bandwidth = float(kernel.removeprefix("rbf:"))
    squared = np.array([((x - row) ** 2).sum(axis=1) for row in x])
    return np.exp(-squared / (2 * bandwidth**2 * np.median(squared)))


def centred(k, estimator):
    """The centred Gram matrix, divided so that inner products of two are their HSIC."""
    n = len(k)
    if estimator == "biased":
        h = np.eye(n) - 1 / n
        return h @ k @ h / (n - 1)
    k = k - np.diag(np.diag(k))
    sums = k.sum(axis=1)
    u = k - (sums[:, None] + sums[None, :]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return (u - np.diag(np.diag(u))) / np.sqrt(n * (n - 3))


def batches(info):
    ends = np.cumsum([info["batch_size"]] * (info["batches"] - 1) + [info["last_batch"]])
    return [slice(begin, end) for begin, end in zip([0, *ends], ends)]


def panels(activations, layers, info):
    """Per batch a matrix [layers, n * n]."""
    for batch in batches(info):
        grams = [centred(gram(activations[layer][batch], info["kernel"]), info["estimator"]) for layer in layers]
        yield np.array([k.ravel() for k in grams])


def minibatch_cka(info):
    x = panels(read_safetensors(info["data"]["file_x"]), info["layers_x"], info)
    y = panels(read_safetensors(info["data"]["file_y"]), info["layers_y"], info)
    xy, xx, yy = (sum(terms) for terms in zip(*((p @ q.T, (p**2).sum(1), (q**2).sum(1)) for p, q in zip(x, y))))
    return xy / (np.sqrt(xx)[:, None] * np.sqrt(yy))


def difference(directory):
    info = json.loads((directory / "cka.json").read_text())
    found = np.load(directory / "cka.npz")["cka"]
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = minibatch_cka(info)
    apart = np.where(np.isnan(found) & np.isnan(expected), 0, np.abs(found - expected))
    return np.where(np.isnan(apart), np.inf, apart).max(), TOLERANCE[info["gram"]]


def main(directories):
    worst = {directory: difference(Path(directory)) for directory in directories}
    for directory, (apart, tolerance) in worst.items():
        print(f"{apart:9.2e} {'' if apart <= tolerance else 'WRONG '}{directory}")
    return 0 if all(apart <= tolerance for apart, tolerance in worst.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
