"""The command ``speechllm``."""

from __future__ import annotations

import sys

import click

from speechbrain_ext import __version__
from speechllm.cli.audio import transcribe
from speechllm.cli.common import guarded
from speechllm.cli.demo import demo
from speechllm.cli.folders import export, info, push
from speechllm.cli.keys import keys
from speechllm.cli.layers import measure, rules
from speechllm.cli.pruning import prune
from speechllm.cli.recipes import recipes
from speechllm.cli.runs import compare, report


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Speech LLMs with fewer layers: use them, measure, prune, share.

    \b
    speechllm transcribe some.wav --model DIR
    speechllm measure Qwen/Qwen2.5-1.5B --text lines.txt
    speechllm prune Qwen/Qwen2.5-1.5B --layers 4 --text lines.txt --output DIR
    speechllm export results/mini_prune my-model
    """


for command in (
    transcribe,
    measure,
    prune,
    rules,
    export,
    push,
    info,
    compare,
    report,
    demo,
    keys,
    recipes,
):
    cli.add_command(command)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    words = sys.argv[1:] if argv is None else list(argv)
    return guarded(
        lambda: cli.main(
            args=words, prog_name="speechllm", standalone_mode=False
        ),
        as_json="--json" in words,
    )
