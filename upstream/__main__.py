"""``python -m upstream CHECKOUT``: plan, write, check."""

import argparse
import os
import sys
from pathlib import Path

from upstream.checkout import Checkout
from upstream.checks import Checks, outcome_table, scores_of
from upstream.layout import AUTHOR, ORDER, ROOT
from upstream.plan import Plan

WORK = ROOT / "results" / "upstream"


def parse(argv):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m upstream",
        description="Lay recipes and library over a checkout of SpeechBrain "
        "and run its checks there.",
    )
    parser.add_argument("checkout", type=Path, help="SpeechBrain's sources")
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would be written"
    )
    parser.add_argument(
        "--slice",
        choices=ORDER,
        help="one pull request, on top of those before it (default: all)",
    )
    parser.add_argument(
        "--results", type=Path, help="folder of runs for the results tables"
    )
    parser.add_argument(
        "--author", default=AUTHOR, help='such as "Your Name, 2026"'
    )
    parser.add_argument(
        "--only", nargs="+", help="names of checks, or how they begin; or none"
    )
    parser.add_argument("--work", type=Path, default=WORK)
    return parser.parse_args(argv)


def main(argv=None):
    """Plan, write and check."""
    options = parse(argv)
    try:
        checkout = Checkout(options.checkout)
        checkout.refuse_dirty()
        own = [checkout.committed, scores_of(options.results), options.author]
        plan = Plan(*own, options.slice or ORDER[-1])
        changed = plan.files.keys()
        if options.slice and options.slice != ORDER[0]:
            before = Plan(*own, ORDER[ORDER.index(options.slice) - 1]).files
            changed = [p for p, f in plan.files.items() if before.get(p) != f]
        checkout.refuse_ignored(plan.files)
        plan.format(checkout.committed("pyproject.toml"))
        work = Path(os.path.abspath(options.work))
        checks = Checks(checkout, plan, work)
        checks.chosen(options.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    news = checkout.news(plan.files)
    for path in sorted(news):
        if options.dry_run or news[path] != "same":
            print(f"{news[path]:8s}{path}")
    counts = [
        f"{list(news.values()).count(k)} {k}" for k in sorted({*news.values()})
    ]
    print(f"{checkout.folder} ({checkout.version()}): {', '.join(counts)}")
    if options.dry_run:
        return 0
    checkout.write(plan.files)
    if options.slice:
        work.mkdir(parents=True, exist_ok=True)
        paths = work / f"{options.slice}.paths"
        paths.write_text("\n".join([*changed, ""]), "utf-8")
        print(f"Its own files: git add --pathspec-from-file={paths}")
    outcomes = checks.run(options.only)
    print(outcome_table(outcomes))
    return 0 if all(one.passed for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
