"""A recipe's command line.

Authors
 * The speechbrain_ext authors, 2026
"""

import sys
from dataclasses import fields, replace

from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.hparams.overlay import base_chain
from speechbrain_ext.hparams.overrides import Raw


def parse_arguments(argv=None):
    """A recipe's command line, without what SpeechBrain's own parser loses.

    ``speechbrain.parse_arguments`` splits values at ``=`` and writes them
    unquoted, so that ``--prompt "a=b: {speech}"`` does not arrive; it takes
    run options such as ``--precision`` away from the YAML's checks, and hands
    ``--optimizer_step_limit`` on as a text.

    Arguments
    ---------
    argv : list, optional
        Of str; default: ``sys.argv[1:]``.

    Returns
    -------
    path : str
        The YAML file.
    run_opts : RunOptions
        SpeechBrain's run options.
    overrides : dict
        For ``load_hparams``: every other option, and each given run option
        that is a key of the YAML too.

    Raises
    ------
    ConfigError
        If the YAML, or a base of it, cannot be read.

    Example
    -------
    >>> file = str(getfixture("tmpdir").join("train.yaml"))
    >>> _ = open(file, "w").write("seed: 1\\nprompt: a\\nprecision: fp32\\n")
    >>> words = [file, "--prompt", "a=b: {speech}", "--precision=bf16"]
    >>> parse_arguments(words)[2]
    {'prompt': 'a=b: {speech}', 'precision': 'bf16'}
    """
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
    """The options of a command line that are not SpeechBrain's.

    Arguments
    ---------
    argv : list
        Of str.

    Returns
    -------
    dict
        From name to ``Raw`` text.
    """
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
