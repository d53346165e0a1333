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
before anything is timed their values and gradients are compared with each other and with one computed in f64: a
disagreement ends the program with code 1. `composed` and `monai`, whose f32 sums lose digits, are compared in f64 and
timed in f32; what they lose is reported.

Threads that spin while they wait gain a little on a quiet machine and lose much on a busy one. So each peer runs under
both: PyTorch with OpenMP's ordinary waiting and with OMP_WAIT_POLICY=PASSIVE, `composed` with Candle's own pool of
threads and with CANDLE_NUM_THREADS=1; the better median counts as the peer's. `ours` has CANDLE_NUM_THREADS=1 alone.

In each round every contestant has a turn: one iteration that is not counted (none if it takes longer than a turn), then
some that are. Meanwhile the
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
ORDINARY = "ordinary"
ONE_POOL = "CANDLE_NUM_THREADS=1"
PASSIVE = "OMP_WAIT_POLICY=PASSIVE"
#: The processes: the program, the settings of which there is a process each, and the contestants in it.
PROCESSES = [
    ("rust", [ONE_POOL], OURS),
    ("rust", [ORDINARY, ONE_POOL], ["composed"]),
    ("rust", [ONE_POOL], ["copy"]),
    ("python", [ORDINARY, PASSIVE], ["torch-eager"]),
    ("python", [ORDINARY, PASSIVE], ["torch-compile"]),
    ("python", [ORDINARY, PASSIVE], ["monai"]),
]
#: Of any two contestants' gradients, relative L2, and of their losses.
GRADIENT_TOLERANCE = 1e-5
VALUE_TOLERANCE = 1e-6
#: Their f32 sums over millions of pixels lose more than that. So they have to agree when they compute in f64, which
#: says that the formula is the same, and what they lose in f32, as they are timed, is bounded and reported.
LOSES_DIGITS = ["composed", "monai"]
LOST_GRADIENT = 1e-3
LOST_VALUE = 1e-4
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
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 15, with --quick 4")
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
                f"pip could not install {', '.join(missing)} (above). It needs a network or a mirror that pip is set "
                f"up for, and some gigabytes of room in {folder}. Once they are there, no network is needed"
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

    def __init__(self, command: list[str | Path], setting: str, threads: int) -> None:
        self.setting = setting
        pools = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"]
        variables = dict.fromkeys(pools, str(threads))
        if setting != ORDINARY:
            key, _, value = setting.partition("=")
            variables[key] = value
        # What the caller has set for one of the two must not hold for both.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=inherited | variables,
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
                f"the worker ended at {' '.join(words)!r} with code {self.process.wait()}; "
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
        self.of: dict[str, list[Worker]] = {}
        for program, settings, contestants in PROCESSES:
            started = [Worker(commands[program], setting, threads) for setting in settings]
            self.of |= {contestant: started for contestant in contestants}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.all():
            worker.close()

    def all(self) -> list[Worker]:
        return [worker for _, _, (first, *_) in PROCESSES for worker in self.of[first]]


# The measurement.


@dataclass
class ShapeResult:
    """What one shape gave."""

    bytes: int
    times: dict[str, dict[str, list[float]]]
    values: dict[str, float]
    gradients: dict[str, float]
    left_out: dict[str, str] = field(default_factory=dict)


def measure(options: argparse.Namespace) -> dict[str, object]:
    plan = Plan(rounds=4, turn_s=0.05) if options.quick else Plan(rounds=15, turn_s=0.2)
    if options.rounds is not None:
        plan.rounds = options.rounds
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
        answers = {worker: load(worker, folder, name) for worker in workers.all()}
        least = int(answers[workers.of["copy"][0]].removeprefix("bytes "))
        say(f"{name}: comparing values and gradients")
        contestants = [*OURS, *PEERS]
        left_out: dict[str, str] = {}
        values = {"reference": reference}
        for contestant in [c for c in contestants if c != "copy"]:
            ask = workers.of[contestant][0].ask
            try:
                for dtype in ["f32", "f64"] if contestant in LOSES_DIGITS else ["f32"]:
                    given = contestant if dtype == "f32" else in_f64(contestant)
                    file = str(Path(folder) / f"{given}.grad")
                    values[given] = float(ask("write", contestant, dtype, file))
            except Refusal as refusal:
                if contestant != "torch-compile":
                    raise Failure(f"{contestant} at {name}: {refusal}") from None
                say(f"{name}: torch-compile left out: {refusal}")
                left_out[contestant] = str(refusal)
                contestants.remove(contestant)
        distances = ask_python(python, "compare", folder, *values)
    gradients = agree(name, values, distances)  # type: ignore[arg-type]
    times = interleave(name, contestants, workers, plan)
    return ShapeResult(least, times, values, gradients, left_out)


def in_f64(contestant: str) -> str:
    return f"{contestant}-f64"


def load(worker: Worker, folder: str, name: str) -> str:
    try:
        return worker.ask("load", folder, name)
    except Refusal as refusal:
        raise Failure(f"a worker could not read the input {name}: {refusal}") from None


def agree(
    name: str, values: dict[str, float], distances: list[dict[str, object]]
) -> dict[str, float]:
    """Each gradient's distance from the f64 reference, if all pairs agree."""
    wrong = []
    for pair in distances:
        a, b, distance = str(pair["a"]), str(pair["b"]), float(str(pair["relative_l2"]))
        loses = a in LOSES_DIGITS or b in LOSES_DIGITS
        value_limit = LOST_VALUE if loses else VALUE_TOLERANCE
        gradient_limit = LOST_GRADIENT if loses else GRADIENT_TOLERANCE
        # Not `>`: a NaN has to fail.
        if not abs(values[a] - values[b]) <= value_limit:
            wrong.append(
                f"the losses of {a} and {b} are {values[a]:.9} and {values[b]:.9}, allowed are {value_limit} apart"
            )
        if not distance <= gradient_limit:
            wrong.append(
                f"the gradients of {a} and {b} differ by {distance:.2e} (relative L2), allowed is {gradient_limit}"
            )
    if wrong:
        raise Failure(
            f"at {name} the contestants do not compute the same, so their times can't be compared:\n  "
            + "\n  ".join(wrong)
        )
    return {
        str(pair["b"]): float(str(pair["relative_l2"]))
        for pair in distances
        if pair["a"] == "reference"
    }


def interleave(
    name: str, contestants: list[str], workers: Workers, plan: Plan
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of every counted iteration by contestant and setting; each has a turn in each round."""
    turns = []
    times: dict[str, dict[str, list[float]]] = {contestant: {} for contestant in contestants}
    for contestant in contestants:
        for worker in workers.of[contestant]:
            warm = min(time_of(worker, contestant, 3))
            count = max(1, min(plan.most, round(plan.turn_s * 1e3 / warm)))
            # The first iteration of a turn brings caches and pools back, which a long one doesn't notice.
            uncounted = 1 if warm < plan.turn_s * 1e3 else 0
            turns.append((contestant, worker, uncounted, count))
            times[contestant][worker.setting] = []
    for number in range(plan.rounds):
        say(f"{name}: round {number + 1} of {plan.rounds}")
        # Another one begins each time: nobody always follows the same neighbour's cache.
        start = number % len(turns)
        for contestant, worker, uncounted, count in turns[start:] + turns[:start]:
            counted = time_of(worker, contestant, uncounted + count)[uncounted:]
            times[contestant][worker.setting] += counted
    return times


def time_of(worker: Worker, contestant: str, count: int) -> list[float]:
    try:
        return [float(ms) for ms in worker.ask("time", contestant, str(count)).split()]
    except Refusal as refusal:
        raise Failure(f"{contestant}: {refusal}") from None


# The results.


def add(result: dict[str, object], name: str, shape_result: ShapeResult) -> None:
    settings = {
        contestant: {setting: statistics.median(own) for setting, own in by_setting.items()}
        for contestant, by_setting in shape_result.times.items()
    }
    best = {contestant: min(of, key=of.__getitem__) for contestant, of in settings.items()}
    times = {contestant: shape_result.times[contestant][best[contestant]] for contestant in best}
    medians = {contestant: settings[contestant][best[contestant]] for contestant in best}
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
        "median_ms_by_setting": settings,
        "loss": shape_result.values,
        "gradient_relative_l2_from_reference": shape_result.gradients,
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

    def ran(contestant: str) -> bool:
        return all(contestant in one["loss"] for one in shapes.values())

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
        cells += [ms(row["ours_ms"]), f"**{ratio(row['ratio'])}**"]
        cells += [ms(row["ours_one_hot_ms"]), ratio(row["ratio_one_hot"])]
        cells += [ms(row["ours_backward_ms"]), ratio(row["ratio_backward"])]
        lines.append(f"| {' | '.join(cells)} |")
    for gone in left_out:
        lines.append(f"| {gone['shape']} | {gone['peer']} | does not run here: {gone['reason']} | | | | | | |")
    lines += [
        "",
        "*ours*: `value_and_grad` on u8 labels; *one-hot*: the same on the f32 one-hot target that every peer is "
        "given; *backward*: `Tensor::backward` on labels. *copy* moves the least bytes that loss and gradient need: "
        + ", ".join(f"{name} at {one['copy_gb_s']:.1f} GB/s" for name, one in shapes.items())
        + ". Farthest from the f64 loss, and its gradient in relative L2: "
        + ", ".join(lost(contestant, shapes) for contestant in ["ours", *PEERS[:-1]] if ran(contestant))
        + ".",
    ]
    return "\n".join(lines)


def ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def ratio(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def lost(contestant: str, shapes: dict[str, dict[str, dict[str, float]]]) -> str:
    """What a contestant's f32 sums lose, at worst."""
    loss = max(abs(one["loss"][contestant] - one["loss"]["reference"]) for one in shapes.values())
    gradient = max(one["gradient_relative_l2_from_reference"][contestant] for one in shapes.values())
    return f"{contestant} {loss:.0e} and {gradient:.0e}"


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
