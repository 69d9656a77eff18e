"""Many runs by one command: several networks, every combination of arguments, every seed.

    python -m utils.sweep resnet:resnet20 vgg:vgg_cifar --epochs 20 --seeds 0 1 2
    python -m utils.sweep anynet:sampled --over index=0-31 space=A,B --epochs 3 --processes 2

Everything that is recorded in `results/` already is left out, and what was interrupted goes on
from its checkpoint: give the same command again. Several processes share the work, whether they
were started by `--processes`, in a second terminal, or on a second machine with the same files.
The other options are those of `python -m utils.train`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import os
import re
import subprocess
import sys
from typing import Any, NamedTuple

import filelock

from utils import results, runs, runtime

start = subprocess.Popen


class Job(NamedTuple):
    """One run of the sweep: what `runs.run` takes, and what tells it from the others."""

    args: argparse.Namespace
    understood: tuple[Any, dict[str, Any], dict[str, Any]]
    seed: int
    key: dict[str, Any]

    @property
    def chapter(self) -> str:
        return self.args.network.split(":")[0]


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with a sentence where something is wrong."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    if args.profile:
        os.environ["COURSE_PROFILE"] = args.profile
    try:
        todo = plan(args)
        if args.processes > 1:
            sys.exit(_several(argv, args.processes))
        data, failed = runs.real_data(args), []
        for job in todo:
            try:
                work(job, data)
            except runs.ERRORS as error:  # the others need not suffer for one
                print(f"{job.args.network} {job.key['asked']} seed {job.seed}: {error}")
                failed.append(job)
        if failed:
            sys.exit(f"error: {len(failed)} of {len(todo)} runs failed, see above.")
    except runs.ERRORS as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from the last checkpoint.")


def plan(args: argparse.Namespace) -> list[Job]:
    """The runs still to be made: seed by seed, the first of `--over` varying slowest.

    Raises:
        ValueError: a network, an argument or an option that does not exist.
    """
    jobs, there = [], {}
    for seed, network, *chosen in itertools.product(
        args.seeds, args.networks, *map(_axis, args.over)
    ):
        one = copy.copy(args)
        one.network, one.model_args = network, [*args.model_args, *chosen]
        builder, arguments, options = runs.understand(one)
        key = runs.identity(one, arguments, options, seed)
        job = Job(one, (builder, arguments, options), seed, key)
        if job.chapter not in there:
            there[job.chapter] = [runs.key_of(r) for r in results.load(job.chapter)]
        if args.dry or key not in there[job.chapter]:
            jobs.append(job)
    print(f"{len(jobs)} runs to do", flush=True)
    return jobs


def work(job: Job, data: Any) -> None:
    """Make one run, unless another process has it in hand or has recorded it meanwhile."""
    folder = runs.checkpoint_folder(job.chapter, job.key)
    claim = folder.with_name(f"{folder.name}.claim")
    claim.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The lock ends with the process, however it ends.
        with filelock.FileLock(claim, timeout=0):
            runs.run(job.args, *job.understood, data, job.seed)
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                claim.unlink()
    except filelock.Timeout:
        print(f"{job.args.network} {job.key['asked']} seed {job.seed}: another process is at it")


def _axis(word: str) -> list[str]:
    """`space=A,B` as `space=A` and `space=B`; `index=0-31` as `index=0` to `index=31`."""
    name, equals, values = word.partition("=")
    if not (name and equals and values):
        raise ValueError(f"{word!r} should be NAME=VALUES, as in width=8,16 or index=0-31.")
    found: list[str] = []
    for value in values.split(","):
        if ends := re.fullmatch(r"(\d+)-(\d+)", value):
            found += map(str, range(int(ends[1]), int(ends[2]) + 1))
        else:
            found.append(value)
    return [f"{name}={value}" for value in found]


def _several(argv: list[str], processes: int) -> int:
    """Start the same command so many times, each on its share of the cores; the worst status."""
    threads = max(1, runtime.cores() // processes)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", "utils.sweep", *argv, "--processes", "1"]
    started = [start(command, env=env, cwd=runs.ROOT) for _ in range(processes)]
    try:
        return max(process.wait() for process in started)
    finally:
        for process in started:
            process.terminate()
            process.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utils.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("networks", nargs="+", metavar="CHAPTER:NETWORK")
    add("--over", nargs="+", default=[], metavar="NAME=VALUES", help="index=0-31 space=A,B …")
    add("--processes", type=int, default=1, help="how many share the work on this machine")
    return runs.add_options(parser)


if __name__ == "__main__":
    main()
