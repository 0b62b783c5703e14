"""A training step of ours beside PyTorch's: the same networks, batch, precision and recipe, on a CPU or a GPU.

    python benches/train_pytorch.py                                    # needs torch in this Python, and cargo
    python benches/train_pytorch.py --device cuda --variants eager compiled --precision f32 tf32 bf16 -- 20x1 38x10
    python benches/train_pytorch.py --family imagenet --batch 16 50x1

PyTorch's variants: eager; compiled, torch.compile in the mode that captures CUDA graphs; contiguous, eager but without
channels last, which the others have. Each measurement is a fresh process; ours and all variants take turns, and what counts
is the median over the rounds of the ratio within a round: there is a summary for each variant. Peak memory is the whole
process's; PyTorch's after its import alone stands in a row of its own. cpu_ms_per_step, a median too, depends little on what
else the machine does, as long as PyTorch has one thread (of several, those that wait spin). On a GPU both sides have their
images there, ours as bytes that a step crops and flips, and are waited for every 16 steps, or as many as take a quarter of a
second; PyTorch has cuDNN's benchmark mode, a fused SGD and autocast for bf16. A variant that fails or takes longer than
--seconds (most of which is compiling) is left out, and its row says why; where that is ours, the script fails at the end. Rows
go to train_pytorch.jsonl (of ImageNet's family train_pytorch_imagenet.jsonl; on a GPU ..._cuda.jsonl, with cuDNN's
convolutions on our side too ..._cudnn.jsonl) in benches/results/, or where --out says.
"""

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from pathlib import Path

import measure

# The side of the images, and the classes.
FAMILIES = {"cifar": (32, 10), "imagenet": (224, 1000)}
# As `gramscope bench train` has them: rounds, steps of one on a GPU at most, and milliseconds that these are to take.
WARM_UP, ROUNDS = 2, 8
STEPS_A_ROUND, ROUND_MS = 16, 250
NETWORKS = ["14x1", "20x1", "14x2"]
PRECISIONS = ["f32", "tf32", "bf16"]
VARIANTS = ["eager", "compiled", "contiguous"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="DEPTHxWIDTH", help=" ".join(NETWORKS))
    parser.add_argument("--family", choices=FAMILIES, default="cifar")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["f32"], help="tf32 and bf16 on a GPU only")
    parser.add_argument("--convolutions", choices=("own", "cudnn"), default="own", help="whose ours are, on a GPU")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["eager"], help="of PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=150, help="after which a measurement is stopped")
    parser.add_argument("--binary", type=Path, help="a built gramscope; else cargo builds one")
    parser.add_argument("--out", type=Path, default=measure.RESULTS, help="the folder of the rows")
    parser.add_argument("--child", action="store_true", help="the measured process itself")
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments)

    on_gpu = arguments.device != "cpu"
    common = {key: getattr(arguments, key) for key in ("batch", "threads", "device", "convolutions")}
    kind = ("_imagenet" if arguments.family == "imagenet" else "") + ("_cuda" if on_gpu else "")
    kind += "_cudnn" if arguments.convolutions == "cudnn" else ""
    rows = measure.Rows(arguments.out / f"train_pytorch{kind}.jsonl", **common)
    binary = arguments.binary or measure.build()

    shared = ["--family", arguments.family, "--device", arguments.device]

    def ours(network, precision):
        depth, width = network.split("x")
        size = ["--depth", depth, "--width", width, "--batch-size", arguments.batch, "--precision", precision]
        engine = ["--convolutions", arguments.convolutions]
        return [binary, "--quiet", "bench", "train", *size, *shared, *engine, "--json", "/dev/stdout"]

    def theirs(network, precision, variant):
        how = ["--batch", arguments.batch, "--precision", precision, "--variants", variant]
        return [sys.executable, __file__, "--child", *shared, *how, "--", network]

    def side(command):
        return measure.run(command, arguments.threads, arguments.device, fatal=False, seconds=arguments.seconds)

    try:
        _, process = side(theirs("none", "f32", "eager"))
    except RuntimeError as error:
        sys.exit(f"PyTorch cannot be loaded: {error}")
    rows.write({"implementation": "pytorch", "what": "import alone", **process})
    ours_failed = []
    keys = ("ms_per_step", "cpu_ms_per_step", "peak_mib") + (("peak_device_mib",) if on_gpu else ())
    for network, precision in ((network, precision) for network in arguments.networks for precision in arguments.precision):
        commands = {"gramscope": ours(network, precision)}
        commands |= {variant: theirs(network, precision, variant) for variant in arguments.variants}
        measured, failed = {name: [] for name in commands}, {}
        for number, name in ((number, name) for number in range(arguments.rounds) for name in commands):
            if name in failed or "gramscope" in failed:
                continue
            of = {"implementation": "gramscope"} if name == "gramscope" else {"implementation": "pytorch", "variant": name}
            try:
                text, process = side(commands[name])
            except RuntimeError as error:
                failed[name] = str(error)
                rows.write({**of, "network": network, "precision": precision, "failure": failed[name]})
                continue
            measured[name].append({**of, "round": number, **process, **json.loads(text.splitlines()[-1])})
            rows.write(measured[name][-1])
        ours_failed += [failed["gramscope"]] if "gramscope" in failed else []
        for variant in (variant for variant in arguments.variants if measured["gramscope"] and measured[variant]):
            both = measured["gramscope"] + measured[variant]
            known = [key for key in keys if all(row[key] is not None for row in both)]
            summary = {"network": network, "precision": precision, "variant": variant, "what": "gramscope / pytorch"}
            rows.write({**summary, **measure.medians(both, known), **measure.ratios(both, known)})
    if ours_failed:
        sys.exit("\n".join(ours_failed))


def child(arguments):
    """Prints a row for one network, as `gramscope bench train` does; `none`: PyTorch is only loaded."""
    [network], device, [precision], batch = arguments.networks, arguments.device, arguments.precision, arguments.batch
    [variant] = arguments.variants
    side, classes = FAMILIES[arguments.family]
    import torch
    from pytorch_resnet import MOMENTUM, WEIGHT_DECAY, ResNet, decaying

    if network == "none":
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    depth, width = network.split("x")
    model = ResNet(int(depth), float(width), classes=classes, family=arguments.family)
    memory_format = torch.contiguous_format if variant == "contiguous" else torch.channels_last
    model = model.to(device, memory_format=memory_format)
    decays = decaying(model)
    others = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    # The penalty is WEIGHT_DECAY times the sum of squares; PyTorch's weight_decay is its gradient's factor.
    groups = [{"params": decays, "weight_decay": 2 * WEIGHT_DECAY}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=MOMENTUM, fused=device != "cpu")
    images = torch.rand(batch, 3, side, side).to(device, memory_format=memory_format)
    labels = (torch.arange(batch) % classes).to(device)

    def loss_of(images):
        mixed = torch.autocast(device, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
        with mixed:
            return torch.nn.functional.cross_entropy(model(images), labels)

    forward = torch.compile(loss_of, mode="reduce-overhead") if variant == "compiled" else loss_of

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = forward(images)
        loss.backward()
        optimizer.step()
        return loss

    steps, seconds, cpu_seconds = 1 if device == "cpu" else steps_a_round(step), [], []
    for _ in range(WARM_UP + ROUNDS):
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(steps):
            loss = step()
        loss.item()
        seconds.append((time.perf_counter() - start) / steps)
        cpu_seconds.append((time.process_time() - cpu_start) / steps)
    median, cpu_median = (statistics.median(times[WARM_UP:]) for times in (seconds, cpu_seconds))
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name()
    row = {"device": name, "depth": int(depth), "width": float(width), "precision": precision}
    times = {"ms_per_step": 1e3 * median, "cpu_ms_per_step": 1e3 * cpu_median, "images_per_second": batch / median}
    print(json.dumps(row | times))


def steps_a_round(step):
    """As many as take a round's time, from the fastest of three: the first ones compile, choose and capture."""
    ms = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        step().item()
        ms = min(ms, 1e3 * (time.perf_counter() - start))
    return max(1, min(STEPS_A_ROUND, math.ceil(ROUND_MS / ms)))


if __name__ == "__main__":
    main()
