"""The command ``speechllm``.

Authors
 * The speechbrain_ext authors, 2026
"""

import sys

import click

from speechbrain_ext.cli.common import guarded
from speechbrain_ext.cli.folders import export, info, push
from speechbrain_ext.cli.rules import rules
from speechbrain_ext.cli.speech import transcribe
from speechbrain_ext.cli.studies import compare, report
from speechbrain_ext.cli.text import measure, prune


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli():
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
):
    cli.add_command(command)


def main(argv=None):
    """Run the command line.

    Arguments
    ---------
    argv : list of str or None
        The words after ``speechllm``; None: those of this process.

    Returns
    -------
    int
        The exit code; see `speechbrain_ext.cli.common`.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    return guarded(
        lambda: cli.main(
            args=words, prog_name="speechllm", standalone_mode=False
        ),
        as_json="--json" in words,
    )
