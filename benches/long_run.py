"""Training and comparing for minutes, killed and resumed twice on the way: memory and open files must not grow.

    python benches/long_run.py --device cuda:0 --seconds 1500 --binary target/release/gramscope

A ResNet-20 is trained for a third of the time and killed, trained on for another third and killed, trained on and asked to stop;
then its layers are compared until the time is over. Once a second the process's resident memory, its open files and the GPU's used
memory are looked at. Of each phase the first quarter is left out, in which buffers find their size; what the second half of the rest
has at most may be no more than the first half's by a twentieth and 32 MiB. The epochs on record must follow each other without a
gap, whatever was killed. Rows, one a sample and one a phase, go to OUT/long-run.jsonl; exit code 1 says that something grew or failed.
Needs nothing but Python, and NVML to see a GPU's memory.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import RESULTS, DeviceMemory, Rows, build

# Of the whole time, and the signal that ends a phase.
PHASES = (("train", 0.35, signal.SIGKILL), ("resume", 0.35, signal.SIGKILL), ("resume", 0.1, signal.SIGINT), ("cka", 0.2, signal.SIGINT))
ALLOWED_SHARE, ALLOWED_MIB = 0.05, 32
KEYS = ("resident_mib", "open_files", "device_mib")


def sample(process, on_device):
    """What the process holds now; nothing once it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        files = len(os.listdir(f"/proc/{process.pid}/fd"))
    except (OSError, StopIteration):
        return None
    device = on_device.used() if on_device.thread else None
    return {"resident_mib": int(resident) / 1024, "open_files": files, "device_mib": device}


def phase(command, seconds, ends_by, on_device, write):
    """Runs the command for so long, and ends it: the samples, and how it ended."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    start, samples = time.monotonic(), []
    while time.monotonic() - start < seconds and process.poll() is None:
        found = sample(process, on_device)
        if found:
            samples.append(found)
            write({"seconds": time.monotonic() - start, **found})
        time.sleep(1)
    early = process.poll() is not None
    if not early:
        process.send_signal(ends_by)
    message = process.communicate()[1]
    return samples, early, process.returncode, message.strip().splitlines()[-1:] if message else []


def growth(samples, key):
    """By how much the second half of what counts has more than the first at most, and what may be."""
    values = [found[key] for found in samples[len(samples) // 4 :] if found[key] is not None]
    if len(values) < 2:
        return None, None
    middle = len(values) // 2
    before, after = max(values[:middle]), max(values[middle:])
    return after - before, ALLOWED_SHARE * before + (0 if key == "open_files" else ALLOWED_MIB)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, help="gramscope; built with cargo unless it is named")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    binary = str(arguments.binary or build())
    rows = Rows(arguments.out / "long-run.jsonl", device=arguments.device)
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        # More epochs than there is time for.
        train = f"{binary} train --data builtin --train-images 2000 --test-images 500 --depth 20 --epochs 1000000 --device {arguments.device} --out {run} --quiet".split()
        compare = f"{binary} cka {run} --passes 1000000 --device {arguments.device} --out {folder}/cka --quiet".split()
        commands = {"train": train, "resume": [*train, "--resume"], "cka": compare}
        on_device = DeviceMemory(arguments.device)
        for number, (name, share, ends_by) in enumerate(PHASES):
            def write(row, number=number, name=name):
                rows.write({"kind": "sample", "phase": number, "command": name, **row})

            samples, early, code, message = phase(commands[name], share * arguments.seconds, ends_by, on_device, write)
            lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
            epochs = [json.loads(line)["epoch"] for line in lines]
            found = {key: growth(samples, key) for key in KEYS}
            grew = [key for key, (by, allowed) in found.items() if by is not None and by > allowed]
            expected = -ends_by if ends_by == signal.SIGKILL else 128 + ends_by
            problems = [f"{key} grew by {found[key][0]:.1f}" for key in grew]
            problems += [f"ended by itself with exit code {code}: {' '.join(message)}"] if early else []
            problems += [f"exit code {code}, not {expected}"] if not early and code != expected else []
            problems += ["its epochs do not follow each other"] if epochs != list(range(1, len(epochs) + 1)) else []
            by = {f"{key}_growth": value for key, (value, _) in found.items()}
            rows.write({"kind": "phase", "phase": number, "command": name, "epochs": len(epochs), "problems": problems, **by})
            failures += [f"{name} ({number}): {problem}" for problem in problems]
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
