"""`make fuzz`: atheris drives every target of targets.py for some seconds, from the committed corpus.

Rule: one process a target, as libFuzzer ends the one it runs in. What it finds new is kept in `--keep` only; an input
that breaks a target is left in the current folder and named, to be committed to the corpus with the mend.
Exit: 0 nothing found, 1 found, 77 atheris cannot be had here.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fuzz.targets import TARGETS, corpus_of

__all__ = ["main"]

NOT_HERE: Final = 77
LONGEST: Final = 4096


def main() -> int:
    """Read the command line and run what it says."""
    parser = argparse.ArgumentParser(description="Fuzz what reads bytes from outside, with atheris (libFuzzer).")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=30, help="for each target; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="libFuzzer's; 0: another each time")
    parser.add_argument("--keep", type=Path, help="a folder for what is new, one below it for each target")
    said = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("SKIPPED fuzzing: atheris is not installed; pip install 'mcpactors[fuzz]' (Linux on x86-64)")
        return NOT_HERE
    wrong = [name for name in said.targets if name not in TARGETS]
    if wrong:
        parser.error(f"no such target: {', '.join(wrong)}; there are {', '.join(TARGETS)}")
    failed = [name for name in said.targets or TARGETS if not _run(name, said.seconds, said.seed, said.keep)]
    if failed:
        print(f"NOT PASSED fuzzing: {', '.join(failed)}")
    return 1 if failed else 0


def _run(name: str, seconds: int, seed: int, keep: Path | None) -> bool:
    """Fuzz one target in a process of its own; whether nothing was found."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = (keep or Path(scratch)) / name
        seeds = Path(scratch) / "seeds"
        for folder in (fresh, seeds):
            folder.mkdir(parents=True)
        for number, data in enumerate(corpus_of(name)):
            (seeds / str(number)).write_bytes(data)
        command = [sys.executable, "-m", "tests.fuzz.one", name, str(fresh), str(seeds)]
        flags = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-seed={seed}", "-rss_limit_mb=4096"]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=seconds + 120, check=False)
    said = done.stderr.splitlines()
    executed = [line for line in said if line.startswith("Done ")]
    print(f"fuzz {name:9} {executed[-1] if executed and not done.returncode else 'FAILED'}", flush=True)
    if done.returncode:
        print("\n".join([*done.stdout.splitlines()[-40:], *said[-20:]]))
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
