# SPDX-License-Identifier: Apache-2.0
"""Fuzzes every place where inputs of strangers enter, and writes a line of JSON for each.

    python tests/fuzzing [ENTRY ...] [--cases N] [--seed S] [--results FILE.jsonl]

A case is made of the seed and its number alone, so the same command gives the same inputs. Every entry point has a
process of its own; a case that takes 10 s is ended with it. Exit status 1 if anything crashed, hung, grew, or ended
otherwise than with an answer or a sentence.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / place) for place in ("models", "export", "runtime", "tests", "tests/material", "benchmarks")]


def main() -> int:
    from engines import provenance
    from freqfusion_runtime.commands.json_output import versions
    from fuzzing.campaign import run
    from fuzzing.entry_points import ENTRY_POINTS

    parser = argparse.ArgumentParser(
        prog="fuzzing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help=f"of {', '.join(ENTRY_POINTS)}; all by default")
    parser.add_argument("--cases", type=int, default=10_000, help="inputs for each entry point")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, metavar="FILE", help="append a line of JSON for each entry point")
    args = parser.parse_args()
    unknown = set(args.entries) - set(ENTRY_POINTS)
    if unknown:
        parser.error(f"there is no entry point {', '.join(sorted(unknown))}")
    is_right = True
    for name in args.entries or ENTRY_POINTS:
        outcome = run(name, args.cases, args.seed)
        is_right = is_right and outcome.is_right
        print(
            f"{name}: {outcome.cases} cases, {outcome.taken} taken, {outcome.refused} refused, "
            f"{outcome.fault_count} faults, slowest {outcome.slowest_s:.2f} s, grew {outcome.growth_mb:.0f} MB, "
            f"{outcome.seconds:.0f} s in all",
            flush=True,
        )
        for case, what in outcome.faults:
            print(f"  case {case}: {what.strip()}", flush=True)
        if args.results is not None:
            args.results.parent.mkdir(parents=True, exist_ok=True)
            with args.results.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({**outcome.facts(), **provenance(), "versions": versions()}, sort_keys=True) + "\n"
                )
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
