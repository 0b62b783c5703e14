"""A training step of ours beside PyTorch's (eager, channels last): the same networks, batch, precision and recipe.

    python benches/train_pytorch.py            # needs torch in this Python, and cargo

Each measurement is a fresh process; the two sides take turns, and what counts is the median over the rounds of the
ratio within a round. Peak memory is the whole process's; PyTorch's after its import alone stands in a row of its own.
cpu_ms_per_step, a median too, depends little on what else the machine does, as long as PyTorch has one thread (of several,
those that wait spin). Rows go to benches/results/train_pytorch.jsonl.
"""

import argparse
import json
import statistics
import sys
import time

import measure

BATCH, SIDE, CLASSES = 128, 32, 10
WARM_UP, STEPS = 2, 8  # as `gramscope bench train` has them
NETWORKS = ["14x1", "20x1", "14x2"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="DEPTHxWIDTH", help=" ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help="the measured process itself")
    arguments = parser.parse_args()
    if arguments.child:
        return [child(network) for network in arguments.networks]

    rows = measure.Rows(measure.RESULTS / "train_pytorch.jsonl", batch=BATCH, threads=arguments.threads)
    binary = measure.build()

    def command(name, network):
        if name == "pytorch":
            return [sys.executable, __file__, "--child", network]
        depth, width = network.split("x")
        size = ["--depth", depth, "--width", width, "--batch-size", str(BATCH)]
        return [binary, "--quiet", "bench", "train", *size, "--device", "cpu", "--json", "/dev/stdout"]

    def side(name, network):
        text, process = measure.run(command(name, network), arguments.threads)
        return process | json.loads(text)

    _, process = measure.run(command("pytorch", "none"), arguments.threads)
    rows.write({"implementation": "pytorch", "what": "import alone", **process})
    for network in arguments.networks:
        sides = {name: lambda name=name: side(name, network) for name in ("gramscope", "pytorch")}
        measured = []
        for row in measure.alternate(sides, arguments.rounds):
            rows.write(row)
            measured.append(row)
        keys = ("ms_per_step", "cpu_ms_per_step", "peak_mib")
        ratios = measure.ratios(measured, keys)
        rows.write({"network": network, "what": "gramscope / pytorch", **measure.medians(measured, keys), **ratios})


def child(network):
    """Prints a row for one network, as `gramscope bench train` does; `none`: PyTorch is only loaded."""
    import torch
    from pytorch_resnet import MOMENTUM, WEIGHT_DECAY, ResNet, decaying

    if network == "none":
        return
    depth, width = network.split("x")
    model = ResNet(int(depth), float(width), classes=CLASSES).to(memory_format=torch.channels_last)
    decays = decaying(model)
    others = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    # The penalty is WEIGHT_DECAY times the sum of squares; PyTorch's weight_decay is its gradient's factor.
    groups = [{"params": decays, "weight_decay": 2 * WEIGHT_DECAY}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=MOMENTUM)
    images = torch.rand(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % CLASSES
    seconds, cpu_seconds = [], []
    for _ in range(WARM_UP + STEPS):
        start, cpu_start = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    median, cpu_median = (statistics.median(times[WARM_UP:]) for times in (seconds, cpu_seconds))
    row = {"device": "cpu", "depth": int(depth), "width": float(width), "precision": "f32"}
    times = {"ms_per_step": 1e3 * median, "cpu_ms_per_step": 1e3 * cpu_median, "images_per_second": BATCH / median}
    print(json.dumps(row | times))


if __name__ == "__main__":
    main()
