"""A recipe's command line."""

import sys
from dataclasses import fields, replace

from speechbrain.utils.run_opts import RunOptions

from speechllm.hparams.overlay import base_chain
from speechllm.hparams.overrides import Raw


def parse_arguments(argv=None):
    """A recipe's command line, without what SpeechBrain's own parser loses."""
    argv = list(sys.argv[1:] if argv is None else argv)
    path, run_opts, _ = RunOptions.from_command_line_args(argv)
    overrides = own_options(argv)
    keys = base_chain(path)[0].keys()
    for name in sorted(run_opts.overridden_args & set(keys)):
        overrides[name] = getattr(run_opts, name)
    limit = run_opts.optimizer_step_limit
    if isinstance(limit, str):
        if not limit.isdecimal():
            raise SystemExit(
                f"--optimizer_step_limit {limit}: give a whole number"
            )
        run_opts = replace(run_opts, optimizer_step_limit=int(limit))
    return path, run_opts, overrides


def own_options(argv):
    """The options of a command line that are not SpeechBrain's."""
    run_options = {field.name for field in fields(RunOptions)}
    options, name = {}, None
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name in run_options:
                name = None
            else:
                options[name] = Raw(value)
        elif name is not None:
            options[name] = Raw(f"{options[name]} {word}".strip())
    return options
