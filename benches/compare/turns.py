"""What the comparisons share: the environment, the build, workers that are stopped unless it is their turn, rounds.

A worker is a process that answers each line of its standard input with a line. While one has its turn, the others are
stopped (SIGSTOP), so that no pool of threads that spins while it waits takes part in another's time. Where there are no
signals to stop a process, a pause between turns lets the pools fall asleep.
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
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Callable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
#: How a worker's threads wait, and which pools it has.
ORDINARY = "ordinary"
ONE_POOL = "CANDLE_NUM_THREADS=1"
PASSIVE = "OMP_WAIT_POLICY=PASSIVE"
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


# The program around a measurement.


def arguments(text: str) -> argparse.ArgumentParser:
    """What every comparison takes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    parser.add_argument(
        "--env", type=Path, metavar="DIR", default=default_environment(),
        help="the virtual environment (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each contestant has a turn")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and iterations")
    return parser


def deliver(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], dict[str, object]],
    report: Callable[[dict[str, object]], str],
) -> None:
    """Measures, prints the report and writes the figures; what fails ends the program with code 1."""
    try:
        if options.json and not options.json.absolute().parent.is_dir():
            raise Failure(f"--json {options.json}: its folder does not exist; make it first")
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


def planned(options: argparse.Namespace, ordinary: Plan, quick: Plan) -> Plan:
    plan = quick if options.quick else ordinary
    if options.rounds is not None:
        plan.rounds = options.rounds
    if plan.rounds < 1:
        raise Failure(f"--rounds is at least 1, found {plan.rounds}")
    return plan


def default_environment() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dice-losses" / "peers"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# What has to be there first.


def environment(folder: Path, packages: list[str]) -> Path:
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
                f"{', '.join(packages)} as --env"
            )
    probe = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])"
    found = subprocess.run(
        [python, "-c", probe, *packages], capture_output=True, text=True
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


def build(binary: str) -> Path:
    """Our worker, built."""
    cargo = shutil.which("cargo")
    if cargo is None:
        raise Failure("cargo was not found; install Rust, or put the folder of cargo on PATH")
    say("building (the first time this takes minutes)")
    # The whole workspace's features: a single package's would have Candle built anew.
    command = [cargo, "build", "--release", "--locked", "--workspace", "--bin", binary]
    command += ["--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        raise Failure(f"{' '.join(command)} failed (above)")
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == binary:
            return Path(message["executable"])
    raise Failure(f"cargo built no {binary}; is benches/Cargo.toml as it was?")


def run(command: list[str | Path]) -> int:
    """Its exit status; what it prints goes to standard error."""
    return subprocess.run(command, stdout=sys.stderr).returncode


def ask_python(python: Path, script: str, *words: str) -> object:
    """What a one-off order to a script of this folder answers."""
    done = subprocess.run(
        [python, HERE / script, *words], stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        raise Failure(f"{script} {words[0]} failed (above)")
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

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

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
                "if it was killed, there was too little memory: leave the largest inputs out"
            )
        self.stop()
        verb, _, rest = answer.partition(" ")
        if verb == "error":
            raise Refusal(rest)
        return rest

    def order(self, *words: str) -> str:
        """As `ask`, where a refusal is the end."""
        try:
            return self.ask(*words)
        except Refusal as refusal:
            raise Failure(f"the worker refused {' '.join(words)!r}: {refusal}") from None


# The rounds.


@dataclass
class Turn:
    """Whose turn it is, in which process, and what that process is to iterate."""

    contestant: str
    worker: Worker
    subject: str


@dataclass
class Iteration:
    """Milliseconds on the wall, and of the whole process, all its threads together, where the system tells."""

    ms: float
    cpu_ms: float | None


#: The iterations of each round, by contestant and setting.
Rounds = dict[str, dict[str, list[list[Iteration]]]]


def interleave(name: str, turns: list[Turn], plan: Plan) -> Rounds:
    """Every counted iteration; each contestant has a turn in each round."""
    counts = []
    rounds: Rounds = {turn.contestant: {} for turn in turns}
    for turn in turns:
        # The first ever makes pools and caches; where it is long, that is little of it.
        warm = iterations(turn, 1)[0].ms
        if warm < 5e3 * plan.turn_s:
            warm = min(one.ms for one in iterations(turn, 2))
        count = max(1, min(plan.most, round(plan.turn_s * 1e3 / warm)))
        # The first iteration of a turn brings caches and pools back, which a long one doesn't notice.
        counts.append((1 if warm < plan.turn_s * 1e3 else 0, count))
        rounds[turn.contestant][turn.worker.setting] = []
    order = list(zip(turns, counts))
    for number in range(plan.rounds):
        say(f"{name}: round {number + 1} of {plan.rounds}")
        # Another one begins each time: nobody always follows the same neighbour's cache.
        start = number % len(turns)
        for turn, (uncounted, count) in order[start:] + order[:start]:
            counted = iterations(turn, uncounted + count)[uncounted:]
            rounds[turn.contestant][turn.worker.setting].append(counted)
    return rounds


def iterations(turn: Turn, count: int) -> list[Iteration]:
    try:
        answer = turn.worker.ask("time", turn.subject, str(count))
    except Refusal as refusal:
        raise Failure(f"{turn.contestant}: {refusal}") from None
    wall, told, cpu = answer.partition(" cpu ")
    cpus = [float(ms) for ms in cpu.split()] if told else [None] * count
    return [Iteration(float(ms), cpu_ms) for ms, cpu_ms in zip(wall.split(), cpus)]


def walls(rounds: list[list[Iteration]]) -> list[float]:
    """Milliseconds of all iterations, one list."""
    return [one.ms for turn in rounds for one in turn]


def best_setting(of_contestant: dict[str, list[list[Iteration]]]) -> str:
    """The one of the better median."""
    return min(of_contestant, key=lambda setting: statistics.median(walls(of_contestant[setting])))


def quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


# The numbers of a table.


def ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def ratio(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


# Where it ran.


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, object]:
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "system": platform.platform(),
        "load_before": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Of what ours is made with."""
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True)
    lock = (ROOT / "Cargo.lock").read_text()
    candle = re.search(r'name = "candle-core"\nversion = "([^"]+)"', lock)
    return {
        "rustc": (rustc.stdout.split() or ["", "unknown"])[1],
        "candle": candle[1] if candle else "unknown",
    }


def peers_versions(python: Path, packages: list[str]) -> dict[str, str]:
    """Of what the peers are made with."""
    found = ask_python(python, "peers.py", "versions", *packages)
    assert isinstance(found, dict)
    return found


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()
