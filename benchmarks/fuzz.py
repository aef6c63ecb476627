"""Fuzz every reader: broken files in, one line each out. Goal: no finding in 10,000 inputs per reader.

    python benchmarks/fuzz.py --budget 10000
    python benchmarks/fuzz.py --budget 500 --target coco --target voc --keep

Every input is a good file of a few kilobytes, broken in a way that knows its format (``tests/fuzz/mutate.py``). It
must be read, or refused by an error that names the file and ends with exit code 4 (2 for what a user typed; a run over
many images goes on and ends with 3), within 5 seconds and a gigabyte. The number of an input says all of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzz.harness import fuzz
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Fuzz the targets asked for, print a row for each, and return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=10_000, help="inputs per reader")
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="a reader; may be repeated")
    parser.add_argument("--keep", action="store_true", help="put one input of each kind of finding into the corpus")
    asked = parser.parse_args()
    total = 0
    print(f"{'reader':14}{'inputs':>9}{'seconds':>9}{'findings':>10}")
    for name in asked.target or TARGETS:
        started, kinds = time.monotonic(), Counter[str]()
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            for finding in fuzz(name, range(asked.start, asked.start + asked.budget), Path(folder)):
                kind = finding.problem.partition(":")[0] + finding.problem.rpartition("(")[2]
                kinds[kind] += 1
                if kinds[kind] <= 2:
                    print(f"  {name} {finding.number} {finding.file}: {finding.problem[:300]}")
                if asked.keep and kinds[kind] == 1:
                    finding.keep()
        total += kinds.total()
        print(f"{name:14}{asked.budget:9,}{time.monotonic() - started:9.0f}{kinds.total():10}", flush=True)
    print(f"{total} findings")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
