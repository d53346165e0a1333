#!/usr/bin/env python3
"""Times DSC++ (γ = 2), loss and gradient from logits, beside what else computes it.

    python3 benches/compare/loss.py                 everything, a few minutes
    python3 benches/compare/loss.py --quick         fewer rounds
    python3 benches/compare/loss.py --shapes 1x2x512x512 --json loss.json

It starts with Python's standard library alone. The first time it makes a virtual environment (--env) and installs
PyTorch, NumPy and MONAI in it with pip, some gigabytes.

Who is measured, each in a process of its own with a thread a core:

  ours           value_and_grad on u8 labels; beside it on the one-hot target, and by Tensor::backward on labels
  composed       the loss as a Candle user would write it, Tensor::backward
  torch-eager    the same formula in PyTorch
  torch-compile  that under torch.compile, if it works here: it needs a C++ compiler
  monai          MONAI's DiceLoss with squared terms, which is this loss when γ = 2 and the target is 0 or 1
  copy           a plain copy of the least bytes: logits and labels read twice, since no gradient can be written before
                 the sums over all pixels are known, and the gradient written once

The last five are given a one-hot f32 target, made beforehand; `ours` on labels is not. Each iteration makes a fresh
gradient and frees it, with the allocator that the process has by default. All read the same logits from one file, and
before anything is timed their values and gradients are compared: a disagreement ends the program with code 1.

In each round every contestant has a turn: one iteration that is not counted, then some that are. Meanwhile the
processes of all others are stopped (SIGSTOP), so that no pool of threads that spins while it waits takes part in
another's time. Where there are no signals to stop a process, a pause between turns lets the pools fall asleep.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SHAPES = ["1x2x512x512", "8x2x512x512", "2x4x128x128x128", "1x1x512x512"]
PACKAGES = ["torch", "numpy", "monai"]
OURS = ["ours", "ours-backward", "ours-one-hot"]
PEERS = ["composed", "torch-eager", "torch-compile", "monai", "copy"]
#: Which process a contestant runs in, and which program that is.
PROCESSES = {
    "ours": ("rust", OURS),
    "composed": ("rust", ["composed"]),
    "copy": ("rust", ["copy"]),
    "torch-eager": ("python", ["torch-eager"]),
    "torch-compile": ("python", ["torch-compile"]),
    "monai": ("python", ["monai"]),
}
GRADIENT_TOLERANCE = 1e-5
VALUE_TOLERANCE = 1e-6
CAN_STOP = hasattr(signal, "SIGSTOP")
PAUSE_S = 0.1


class Failure(Exception):
    """Something the reader has to mend; the text says how."""


@dataclass
class Plan:
    """How much is measured: rounds, and seconds of counted iterations a turn."""

    rounds: int
    turn_s: float
    most: int = 30


def main() -> None:
    options = arguments()
    try:
        result = measure(options)
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    print()
    print(report(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        say(f"wrote {options.json}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    parser.add_argument(
        "--env", type=Path, metavar="DIR", default=default_environment(),
        help="the virtual environment (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--shapes", nargs="+", metavar="NxCx...", default=SHAPES, type=shape,
        help="default: " + " ".join(SHAPES),
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 20, with --quick 4")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and iterations")
    return parser.parse_args()


def shape(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2,}", text):
        raise argparse.ArgumentTypeError(f"expected a shape like 1x2x512x512, found {text!r}")
    return text


def default_environment() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dice-losses" / "peers"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# What has to be there first.


def environment(folder: Path) -> Path:
    """The Python of the virtual environment, made and filled if it is not there yet."""
    folder = folder.absolute()
    if folder.resolve().is_relative_to(ROOT):
        raise Failure(f"--env {folder} lies inside the repository; choose a folder outside it")
    windows = os.name == "nt"
    python = folder / ("Scripts/python.exe" if windows else "bin/python")
    if not python.exists():
        say(f"making a virtual environment in {folder}")
        if run([sys.executable, "-m", "venv", str(folder)]) != 0:
            raise Failure(
                f"{sys.executable} -m venv {folder} failed (above). Install Python's venv and pip modules "
                "(Debian and Ubuntu: the package python3-venv), or give an environment that holds "
                f"{', '.join(PACKAGES)} as --env"
            )
    probe = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])"
    found = subprocess.run(
        [python, "-c", probe, *PACKAGES], capture_output=True, text=True
    )
    if found.returncode != 0:
        raise Failure(f"{python} does not run: {found.stderr.strip()}. Delete {folder} and start again")
    if missing := found.stdout.split():
        say(f"installing {', '.join(missing)} in {folder} (PyTorch is large)")
        if run([python, "-m", "pip", "install", "--disable-pip-version-check", *missing]) != 0:
            raise Failure(
                f"pip could not install {', '.join(missing)} (above). It needs a network or a mirror that pip is set up "
                f"for, and some gigabytes of room in {folder}. Once they are installed there, no network is needed"
            )
    return python


def build() -> Path:
    """Our worker, built."""
    cargo = shutil.which("cargo")
    if cargo is None:
        raise Failure("cargo was not found; install Rust, or put the folder of cargo on PATH")
    say("building (the first time this takes minutes)")
    # The whole workspace's features: a single package's would have Candle built anew.
    command = [cargo, "build", "--release", "--locked", "--workspace", "--bin", "compare-loss"]
    command += ["--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        raise Failure(f"{' '.join(command)} failed (above)")
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "compare-loss":
            return Path(message["executable"])
    raise Failure("cargo built no compare-loss; is benches/Cargo.toml as it was?")


def run(command: list[str | Path]) -> int:
    """Its exit status; what it prints goes to standard error."""
    return subprocess.run(command, stdout=sys.stderr).returncode


def ask_python(python: Path, *words: str) -> object:
    """What a one-off order to peers.py answers."""
    done = subprocess.run(
        [python, HERE / "peers.py", *words], stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        raise Failure(f"peers.py {words[0]} failed (above)")
    return json.loads(done.stdout)


# The processes.


class Refusal(Exception):
    """A worker's answer that something went wrong."""


class Worker:
    """A process that answers each line with a line, and is stopped unless it is its turn."""

    def __init__(self, name: str, command: list[str | Path], threads: int) -> None:
        self.name = name
        count = str(threads)
        pools = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | {pool: count for pool in pools},
        )
        self.stop()

    def stop(self) -> None:
        if CAN_STOP:
            self.process.send_signal(signal.SIGSTOP)

    def ask(self, *words: str) -> str:
        assert self.process.stdin and self.process.stdout
        if CAN_STOP:
            self.process.send_signal(signal.SIGCONT)
        else:
            time.sleep(PAUSE_S)
        try:
            self.process.stdin.write("\t".join(words) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline().rstrip("\n")
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise Failure(
                f"the process of {self.name} ended at {' '.join(words)!r} with code {self.process.wait()}; "
                "if it was killed, there was too little memory: leave the large shapes out with --shapes"
            )
        self.stop()
        verb, _, rest = answer.partition(" ")
        if verb == "error":
            raise Refusal(rest)
        return rest

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Workers:
    """All processes, ended whatever happens."""

    def __init__(self, binary: Path, python: Path, threads: int) -> None:
        commands: dict[str, list[str | Path]] = {
            "rust": [binary],
            "python": [python, HERE / "peers.py", "worker", str(threads)],
        }
        self.of: dict[str, Worker] = {}
        for name, (program, contestants) in PROCESSES.items():
            worker = Worker(name, commands[program], threads)
            self.of |= {contestant: worker for contestant in contestants}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in set(self.of.values()):
            worker.close()

    def time(self, contestant: str, count: int) -> list[float]:
        """Milliseconds of so many iterations."""
        return [float(ms) for ms in self.of[contestant].ask("time", contestant, str(count)).split()]


# The measurement.


@dataclass
class ShapeResult:
    """What one shape gave."""

    bytes: int
    times: dict[str, list[float]]
    reference: float
    values: dict[str, float]
    gradients: dict[str, float]
    left_out: dict[str, str] = field(default_factory=dict)


def measure(options: argparse.Namespace) -> dict[str, object]:
    quick: bool = options.quick
    plan = Plan(rounds=options.rounds or (4 if quick else 20), turn_s=0.05 if quick else 0.2)
    if plan.rounds < 1:
        raise Failure(f"--rounds is at least 1, found {plan.rounds}")
    if options.json and not options.json.absolute().parent.is_dir():
        raise Failure(f"--json {options.json}: its folder does not exist; make it first")
    python = environment(options.env)
    binary = build()
    threads = cores()
    result: dict[str, object] = {
        "machine": machine(python),
        "threads": threads,
        "rounds": plan.rounds,
        "rows": [],
        "shapes": {},
        "left_out": [],
    }
    with Workers(binary, python, threads) as workers:
        for name in options.shapes:
            add(result, name, one_shape(name, workers, python, plan))
    return result


def one_shape(name: str, workers: Workers, python: Path, plan: Plan) -> ShapeResult:
    with tempfile.TemporaryDirectory(prefix="compare-loss-") as folder:
        say(f"{name}: drawing")
        reference = ask_python(python, "data", folder, name)["value"]  # type: ignore[index]
        for process in PROCESSES:
            answer = load(workers.of[PROCESSES[process][1][0]], folder, name)
            if process == "copy":
                least = int(answer)
        say(f"{name}: comparing values and gradients")
        contestants = [*OURS, *PEERS]
        left_out: dict[str, str] = {}
        values: dict[str, float] = {}
        for contestant in [c for c in contestants if c != "copy"]:
            try:
                file = Path(folder) / f"{contestant}.grad"
                values[contestant] = float(workers.of[contestant].ask("write", contestant, str(file)))
            except Refusal as refusal:
                if contestant != "torch-compile":
                    raise Failure(f"{contestant} at {name}: {refusal}") from None
                say(f"{name}: torch-compile left out: {refusal}")
                left_out[contestant] = str(refusal)
                contestants.remove(contestant)
        distances = ask_python(python, "compare", folder, "reference", *values)
    gradients = agree(name, {"reference": reference, **values}, distances)  # type: ignore[arg-type]
    times = interleave(name, contestants, workers, plan)
    return ShapeResult(least, times, reference, values, gradients, left_out)


def load(worker: Worker, folder: str, name: str) -> str:
    try:
        return worker.ask("load", folder, name).removeprefix("bytes ")
    except Refusal as refusal:
        raise Failure(f"{worker.name} could not read {name}: {refusal}") from None


def agree(
    name: str, values: dict[str, float], distances: list[dict[str, object]]
) -> dict[str, float]:
    """Each gradient's distance from the f64 reference, if all pairs agree."""
    wrong = []
    for pair in distances:
        a, b, distance = str(pair["a"]), str(pair["b"]), float(str(pair["relative_l2"]))
        if not abs(values[a] - values[b]) <= VALUE_TOLERANCE:
            wrong.append(f"the losses of {a} and {b} are {values[a]:.9} and {values[b]:.9}")
        if not distance <= GRADIENT_TOLERANCE:
            wrong.append(f"the gradients of {a} and {b} differ by {distance:.2e} (relative L2)")
    if wrong:
        raise Failure(
            f"at {name} the contestants do not compute the same; allowed are {VALUE_TOLERANCE} for losses and "
            f"{GRADIENT_TOLERANCE} for gradients:\n  " + "\n  ".join(wrong)
        )
    return {
        str(pair["b"]): float(str(pair["relative_l2"]))
        for pair in distances
        if pair["a"] == "reference"
    }


def interleave(
    name: str, contestants: list[str], workers: Workers, plan: Plan
) -> dict[str, list[float]]:
    """Milliseconds of every counted iteration, in rounds in which each contestant has a turn."""
    counts = {}
    for contestant in contestants:
        warm = min(workers.time(contestant, 3))
        counts[contestant] = max(1, min(plan.most, round(plan.turn_s * 1e3 / warm)))
    times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for round_ in range(plan.rounds):
        say(f"{name}: round {round_ + 1} of {plan.rounds}")
        # Another one begins each time: nobody always follows the same neighbour's cache.
        start = round_ % len(contestants)
        for contestant in contestants[start:] + contestants[:start]:
            # The first iteration of a turn brings caches and pools back.
            times[contestant] += workers.time(contestant, counts[contestant] + 1)[1:]
    return times


# The results.


def add(result: dict[str, object], name: str, shape_result: ShapeResult) -> None:
    times = shape_result.times
    medians = {contestant: statistics.median(own) for contestant, own in times.items()}
    rows, shapes, left_out = result["rows"], result["shapes"], result["left_out"]
    assert isinstance(rows, list) and isinstance(shapes, dict) and isinstance(left_out, list)
    for peer in PEERS:
        if peer in shape_result.left_out:
            left_out.append({"shape": name, "peer": peer, "reason": shape_result.left_out[peer]})
            continue
        rows.append(
            {
                "shape": name,
                "peer": peer,
                "ratio": medians[peer] / medians["ours"],
                "ours_ms": medians["ours"],
                "peer_ms": medians[peer],
                "ratio_backward": medians[peer] / medians["ours-backward"],
                "ours_backward_ms": medians["ours-backward"],
                "ratio_one_hot": medians[peer] / medians["ours-one-hot"],
                "ours_one_hot_ms": medians["ours-one-hot"],
                "quartiles": {
                    "ours_ms": quartiles(times["ours"]),
                    "ours_backward_ms": quartiles(times["ours-backward"]),
                    "ours_one_hot_ms": quartiles(times["ours-one-hot"]),
                    "peer_ms": quartiles(times[peer]),
                },
            }
        )
    shapes[name] = {
        "least_bytes": shape_result.bytes,
        "copy_gb_s": shape_result.bytes / medians["copy"] / 1e6,
        "iterations": {contestant: len(own) for contestant, own in times.items()},
        "loss_f64": shape_result.reference,
        "loss": shape_result.values,
        "gradient_relative_l2_from_f64": shape_result.gradients,
    }


def quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def report(result: dict[str, object]) -> str:
    """The table, as Markdown."""
    machine, rows, shapes = result["machine"], result["rows"], result["shapes"]
    left_out = result["left_out"]
    assert isinstance(machine, dict) and isinstance(rows, list)
    assert isinstance(shapes, dict) and isinstance(left_out, list)
    versions = machine["versions"]
    lines = [
        f"{machine['cpu']}, {result['threads']} threads each; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; medians over {result['rounds']} rounds. Milliseconds for loss and gradient; a ratio is the peer's time "
        "over ours.",
        "",
        "| shape | peer | peer, ms | ours, ms | **ratio** | one-hot, ms | ratio | backward, ms | ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [row["shape"], row["peer"], ms(row["peer_ms"])]
        cells += [ms(row["ours_ms"]), f"**{row['ratio']:.2f}**"]
        cells += [ms(row["ours_one_hot_ms"]), f"{row['ratio_one_hot']:.2f}"]
        cells += [ms(row["ours_backward_ms"]), f"{row['ratio_backward']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for gone in left_out:
        lines.append(f"| {gone['shape']} | {gone['peer']} | does not run here: {gone['reason']} | | | | | | |")
    lines += [
        "",
        "*ours*: `value_and_grad` on u8 labels; *one-hot*: the same on the f32 one-hot target that every peer is given; "
        "*backward*: `Tensor::backward` on labels. *copy* moves the least bytes that loss and gradient need: "
        + ", ".join(f"{name} at {one['copy_gb_s']:.1f} GB/s" for name, one in shapes.items())
        + ".",
    ]
    return "\n".join(lines)


def ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(python: Path) -> dict[str, object]:
    versions = ask_python(python, "versions")
    assert isinstance(versions, dict)
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True)
    versions["rustc"] = (rustc.stdout.split() or ["", "unknown"])[1]
    lock = (ROOT / "Cargo.lock").read_text()
    found = re.search(r'name = "candle-core"\nversion = "([^"]+)"', lock)
    versions["candle"] = found[1] if found else "unknown"
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "system": platform.platform(),
        "load_before": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    main()
