"""``python -m benchmarks.piebench run DATA --out DIR`` edits a data set with several methods and measures the results.

``python -m benchmarks.piebench regions DATA`` counts the kinds of edits that diffedit reads from its prompts.
DATA is a folder of PIE-Bench (or its mapping_file.json), of PIE-Bench++, MagicBrush or Emu Edit, or of one's own in
PIE-Bench's format. See docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.piebench import CLIP, DINO, SQUEEZENET, datasets
from diffedit_cli.errors import DiffEditError, UsageError


def main(words: Sequence[str] | None = None) -> int:
    options = parser().parse_args(words)
    try:
        data = datasets.read(options.data, options.captions)
        cases = data.chosen(options.types, options.cases)
        if options.command == "regions":
            from benchmarks.piebench.regions import table

            print(table(cases))
        else:
            from benchmarks.piebench.run import run

            print(run(data.title, cases, options))
    except DiffEditError as error:
        print(error, file=sys.stderr)
        return error.code
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing; install it with: pip install -e '.[bench]'.", file=sys.stderr)
        return UsageError.code
    return 0


def parser() -> argparse.ArgumentParser:
    of_all = argparse.ArgumentParser(add_help=False)
    of_all.add_argument("data", type=Path)
    of_all.add_argument("--types", nargs="+", default=[], metavar="TYPE", help="only these types, of PIE-Bench 0 to 9")
    of_all.add_argument("--cases", type=int, metavar="N", help="only the first N of each type")
    of_all.add_argument("--captions", type=Path, metavar="FILE", help="MagicBrush's global_descriptions.json")
    said = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    said.prog = "python -m benchmarks.piebench"
    commands = said.add_subparsers(dest="command", required=True)
    commands.add_parser("regions", parents=[of_all], help="count the kinds of edits")
    run = commands.add_parser("run", parents=[of_all], help="edit and measure")
    run.add_argument("--out", type=Path, required=True, help="folder of the results; an interrupted run resumes there")
    run.add_argument("--methods", nargs="*", default=["ours"], help="see docs/benchmark.md (default: ours)")
    run.add_argument(
        "--results", nargs="*", action="extend", default=[], metavar="NAME=FOLDER", help="results of other methods"
    )
    run.add_argument("--model", default="builtin", help="model of all methods (default: builtin)")
    run.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="NAME=VALUE", dest="settings",
        help="parameters of ours and given, as in steps=20; {from}, {to} and {instruction} stand for the case's",
    )  # fmt: skip
    run.add_argument("--label", metavar="NAME", help="what to call ours in the tables, to compare several settings")
    run.add_argument("--device", default="cpu")
    run.add_argument("--dtype", default="float32")
    run.add_argument("--jpeg", type=int, metavar="QUALITY", help="write results as JPEG (default: PNG)")
    run.add_argument("--dino", default=DINO, metavar="MODEL", help=f"folder or hub id (default: {DINO})")
    run.add_argument("--clip", default=CLIP, metavar="MODEL", help=f"folder or hub id (default: {CLIP})")
    run.add_argument(
        "--squeezenet",
        default=SQUEEZENET,
        metavar="FILE",
        help="SqueezeNet 1.1 (default: torchvision's in torch's cache)",
    )
    run.add_argument("--download", action="store_true", help="get these three from the network where they are missing")
    return said


if __name__ == "__main__":
    sys.exit(main())
