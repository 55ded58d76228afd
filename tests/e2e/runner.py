"""Runs scenarios one after the other, each in a process group of its own, and prints one line for each."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SKIPPED = 77
SECONDS_MAX = 240


def main():
    arguments = parse()
    scenarios = find(arguments)
    if arguments.list:
        print("\n".join(path.stem for path in scenarios))
        return 0
    binary = Path(os.environ.get("POSTERN") or HERE.parents[1] / "target/release/postern")
    if not binary.exists():
        sys.exit(f"run: {binary} does not exist: build it, or set POSTERN")
    counts = {"ok": 0, "FAIL": 0, "SKIP": 0}
    skips = []
    for path in scenarios:
        started = time.monotonic()
        verdict, output = run(path, arguments.verbose)
        counts[verdict] += 1
        print(f"{verdict:<4} {path.stem} ({time.monotonic() - started:.1f} s)", flush=True)
        if verdict == "SKIP":
            skips.append((path.stem, reason(output)))
        if verdict == "FAIL" and not arguments.verbose:
            print("     " + output.replace("\n", "\n     "), flush=True)
    for name, why in skips:
        print(f"SKIPPED {name}: {why}")
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped")
    return 1 if counts["FAIL"] else 0


def parse():
    parser = argparse.ArgumentParser(prog="run", description="End-to-end scenarios with real third parties.")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="those whose name contains NAME")
    parser.add_argument("--folder", default=str(HERE / "scenarios"), help="where the scenarios are")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--verbose", action="store_true", help="let the scenarios print")
    return parser.parse_args()


def find(arguments):
    scenarios = sorted(Path(arguments.folder).glob("[a-z]*.py"))
    if arguments.only:
        scenarios = [path for path in scenarios if any(name in path.stem for name in arguments.only)]
    if not scenarios:
        sys.exit("run: no such scenario")
    return scenarios


def run(path, verbose):
    """One scenario; its whole process group is gone afterwards, whatever happened in it."""
    environment = dict(os.environ, PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1")
    child = subprocess.Popen(
        [sys.executable, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=None if verbose else subprocess.PIPE,
        stderr=None if verbose else subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    timed_out = False
    try:
        output, _ = child.communicate(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        timed_out = True
        child.terminate()  # its handler prints the logs and stops the processes
        try:
            output, _ = child.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            output = b"no end after SIGTERM"
    finally:
        end_group(child.pid)
    text = (output or b"").decode(errors="replace")
    if timed_out:
        return "FAIL", f"took longer than {SECONDS_MAX} s\n{text}"
    return {0: "ok", SKIPPED: "SKIP"}.get(child.returncode, "FAIL"), text


def end_group(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def reason(output):
    lines = [line for line in output.splitlines() if line.startswith("SKIP: ")]
    return lines[-1][len("SKIP: "):] if lines else "no reason given"


if __name__ == "__main__":
    sys.exit(main())
