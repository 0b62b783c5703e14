"""What the comparisons with PyTorch share: measured child processes, rows, the machine's description.

Needs nothing but Python: a parent that had PyTorch loaded would lend its children its own peak of memory.
"""

import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results"


def machine():
    """CPU model and number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


class MemoryInfo(ctypes.Structure):
    """What NVML says of a GPU's memory, in bytes."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class DeviceMemory:
    """How much more a GPU holds at most, while this is open, than it did before, as NVML says, asked four times a second: what one
    process takes where nothing else begins or ends meanwhile. (Of processes by themselves it says nothing in a container.) NVML is
    asked from here: an nvidia-smi each time would open the driver again, for which what is timed may have to wait.
    """

    def __init__(self, device):
        self.peak_mib, self.over, self.thread = None, threading.Event(), None
        try:
            self.nvml = ctypes.CDLL("libnvidia-ml.so.1") if device != "cpu" else None
        except OSError:
            self.nvml = None
        if self.nvml and self.nvml.nvmlInit_v2() == 0:
            self.gpu = ctypes.c_void_p()
            number = int(device.partition(":")[2] or 0)
            self.nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(self.gpu))
            self.before = self.used()
            self.thread = threading.Thread(target=self.look) if self.before is not None else None

    def used(self):
        """MiB, or None where NVML does not say."""
        memory = MemoryInfo()
        asked = self.nvml.nvmlDeviceGetMemoryInfo(self.gpu, ctypes.byref(memory))
        return memory.used / 2**20 if asked == 0 else None

    def look(self):
        while not self.over.wait(0.25):
            used = self.used()
            if used is not None:
                self.peak_mib = max(self.peak_mib or 0, used - self.before)

    def __enter__(self):
        if self.thread:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        if self.thread:
            self.thread.join()


def run(command, threads, device="cpu", fatal=True, seconds=None):
    """Runs a child with so many threads: its output, and wall time, CPU time and peak memory of the whole process. A child that
    fails, or takes longer than `seconds`, ends everything or, where that is not `fatal`, is a RuntimeError."""
    limits = {name: str(threads) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    load = os.getloadavg()[0]  # well above the threads: others were at work, and times say little
    with tempfile.TemporaryFile() as output:
        with DeviceMemory(device) as on_device:
            start = time.perf_counter()
            child = subprocess.Popen([str(part) for part in command], stdout=output, env=os.environ | limits)
            stop = threading.Timer(seconds, child.kill) if seconds else None
            if stop:
                stop.start()
            _, status, usage = os.wait4(child.pid, 0)
            taken = time.perf_counter() - start
            if stop:
                stop.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            late = f" (it was stopped after {seconds} s)" if seconds and taken >= seconds else ""
            message = f"{' '.join(map(str, command))} failed with exit code {child.returncode}{late}"
            raise SystemExit(message) if fatal else RuntimeError(message)
        output.seek(0)
        text = output.read().decode()
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return text, {
        "process_ms": 1e3 * taken,
        "process_cpu_ms": 1e3 * (usage.ru_utime + usage.ru_stime),
        "peak_mib": usage.ru_maxrss * kilobyte / 2**20,
        "peak_device_mib": on_device.peak_mib,
        "load": load,
    }


def build():
    """Builds the binary with cargo in release and returns its path."""
    command = ["cargo", "build", "--release", "--bin", "gramscope", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    messages = [json.loads(line) for line in built.splitlines()]
    return [message["executable"] for message in messages if message.get("executable")][-1]


def alternate(sides, rounds):
    """Rounds of one measurement each of all sides, in turn; a row for each of them."""
    for number in range(rounds):
        for name, measure in sides.items():
            yield {"implementation": name, "round": number, **measure()}


SIDES = ("gramscope", "pytorch")


def of_sides(rows):
    return [[row for row in rows if row["implementation"] == name] for name in SIDES]


def medians(rows, keys):
    """The median over the rounds, for each side."""
    sides = zip(SIDES, of_sides(rows))
    return {f"{name}_{key}": statistics.median(row[key] for row in side) for name, side in sides for key in keys}


def ratios(rows, keys):
    """Ours over PyTorch's: the median over the rounds of the ratio within each round."""
    sides = of_sides(rows)
    of = {key: statistics.median(ours[key] / theirs[key] for ours, theirs in zip(*sides)) for key in keys}
    return {f"{key}_ratio": round(value, 3) for key, value in of.items()}


class Rows:
    """JSON lines to a file and to the terminal."""

    def __init__(self, path, **common):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w")
        self.common = {"machine": machine(), **common}

    def write(self, row):
        rounded = {key: round(value, 3) if isinstance(value, float) and value > 1 else value for key, value in row.items()}
        line = json.dumps(self.common | rounded)
        print(line, file=self.file, flush=True)
        print(json.dumps(rounded), flush=True)
