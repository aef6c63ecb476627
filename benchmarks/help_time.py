"""How instant is help? Median time of ``gwapctl VERB --help`` beside ``python -c "import typer"``, in turns in one run.

python benchmarks/help_time.py [--rounds 15]; the target is at most 3.5 times.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from needs import run_script

from gwapctl.cli import help_pages

TARGET = 3.5


def seconds(arguments: list[str]) -> float:
    """Run ``python ARGUMENTS`` once and return its wall time."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Time every help in turns with the bare import, so that a busy machine slows both alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    bare = ["-c", "import typer"]
    helps = {" ".join(["gwapctl", *verb]): ["-m", "gwapctl", *verb, "--help"] for verb in [(), *help_pages()]}
    seconds(bare)  # the first run of all fills the file cache
    print(f"{'command':<28}{'ms':>8}{'import typer, ms':>18}{'ratio':>8}")
    worst = 0.0
    for name, arguments in helps.items():
        pairs = [(seconds(arguments), seconds(bare)) for _ in range(rounds)]
        own, reference = (statistics.median(column) for column in zip(*pairs, strict=True))
        worst = max(worst, own / reference)
        print(f"{name + ' --help':<28}{own * 1e3:>8.0f}{reference * 1e3:>18.0f}{own / reference:>8.2f}")
    print(f"worst ratio {worst:.2f}, target at most {TARGET}")


if __name__ == "__main__":
    run_script(main)
