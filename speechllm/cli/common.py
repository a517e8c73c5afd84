"""What all commands share: options, progress, and how a command ends.

Exit codes: 0 done; 1 refused or failed, with a line that says why; 2 wrong
usage; 3 done in part (some files failed); 70 a fault of ours; 130 stopped.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from speechllm.device import check_device_name
from speechllm.pipes import printable, reader_may_go

FAILED, PARTLY, OURS, STOPPED = 1, 3, 70, 130
Decorator = Callable[[Callable], Callable]
# What a user can mend; anything else is a fault of ours.
MENDABLE = (
    ValueError,
    OSError,
    TypeError,
    MemoryError,
    ImportError,
    # torch's word for too little memory on a GPU.
    RuntimeError,
)


class Quiet(click.Command):
    """A command during which libraries keep still."""

    def invoke(self, ctx):
        """Run it."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from speechllm.quiet import quiet_libraries

        quiet_libraries()
        return super().invoke(ctx)


def show_progress(as_json: bool = False) -> bool:
    """Whether bars are wanted: on a terminal that a person looks at."""
    return sys.stderr.isatty() and not as_json


def tell(line: str) -> None:
    """A line for the person at the terminal, not for a pipe."""
    click.echo(printable(line), err=True)


def print_json(content: Any) -> None:
    """Plain values for a machine, on standard output."""
    from speechbrain_ext.runs.files import plain

    click.echo(json.dumps(plain(content), indent=2, ensure_ascii=False))


def options(*several: Decorator) -> Decorator:
    """Several options as one decorator."""

    def with_all(command):
        for option in several[::-1]:
            command = option(command)
        return command

    return with_all


class Word(click.Choice):
    """One of some words; other usual spellings are understood."""

    def __init__(self, words: Any, also: dict[str, str] | None = None):
        super().__init__(tuple(words))
        self.also = also or {}

    def convert(self, value, param, ctx):
        """The word, or what was likely meant."""
        value = self.also.get(value, value)
        if value in self.choices:
            return value
        near = difflib.get_close_matches(str(value), self.choices, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        self.fail(
            f"{value!r} is none of {', '.join(self.choices)}.{hint}", param, ctx
        )


class Numbers(click.ParamType):
    """Whole numbers from 1, one or several with commas between."""

    name = "N[,N...]"

    def convert(self, value, param, ctx):
        """A tuple of them."""
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r}: write 4, or 2,4", param, ctx)
        return tuple(map(int, parts))


def flag(name: str, about: str, *more: str, **how: Any) -> Decorator:
    """An option that is there or not."""
    return click.option(name, *more, is_flag=True, help=about, **how)


def file_option(name: str, about: str, **more: Any) -> Decorator:
    """An option that names a file."""
    kind = click.Path(dir_okay=False, allow_dash=True)
    return click.option(name, type=kind, help=about, **more)


def _writable_file(ctx, param, path):
    """Refuse a file that cannot be written, before anything is computed."""
    if not path or path == "-":
        return path
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        why = f"the folder {folder} is not there: make it first"
    elif not os.access(folder, os.W_OK):
        why = f"the folder {folder} cannot be written to: give another one"
    else:
        return path
    raise click.BadParameter(f"{path}: {why}", ctx, param)


def _writable_folder(ctx, param, path):
    """Refuse a folder that can be neither made nor filled."""
    if not path:
        return path
    there = os.path.abspath(path)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if os.path.isdir(there) and os.access(there, os.W_OK):
        return path
    why = "cannot be written to" if os.path.isdir(there) else "is a file"
    raise click.BadParameter(
        f"{path}: {there} {why}: give another folder", ctx, param
    )


def output_file(about: str, *names: str) -> Decorator:
    """`--output`, or another name: a file that is written."""
    return click.option(
        *(names or ("--output",)),
        type=click.Path(dir_okay=False),
        callback=_writable_file,
        help=about,
    )


def output_folder(about: str, **more: Any) -> Decorator:
    """`--output`: a folder that is filled."""
    return click.option(
        "--output",
        type=click.Path(file_okay=False),
        callback=_writable_folder,
        help=about,
        **more,
    )


class Earlier(click.Option):
    """The former spelling of an option: hidden, understood, with a warning."""

    def __init__(self, names: Any, instead: str, **more: Any):
        super().__init__(names, hidden=True, **more)
        self.instead = instead

    def process_value(self, ctx, value):
        """The value; says what it is called now."""
        value = super().process_value(ctx, value)
        typed = click.core.ParameterSource.COMMANDLINE
        if ctx.get_parameter_source(self.name) is typed:
            tell(
                f"Warning: {self.opts[0]} is called {self.instead} now; the "
                "former name goes with the next version."
            )
        return value


def _device(ctx, param, device):
    """Refuse a word that is no device."""
    try:
        return device and check_device_name(device)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


device_option = click.option(
    "--device",
    metavar="DEVICE",
    callback=_device,
    help="cpu, cuda, cuda:1 or mps; by default the best there is.",
)


SHORT_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def options_of_a_model(*more_types: str) -> Decorator:
    """Where a model is put, and of which type its weights are."""
    types = ("float32", "bfloat16", "float16", *more_types)
    return options(
        device_option,
        click.option(
            "--dtype",
            type=Word(types, SHORT_TYPES),
            help="Type of the weights; by default as they are stored.",
        ),
    )


model_options = options_of_a_model()
export_options = options_of_a_model("int8")
json_option = flag("--json", "Print JSON, for machines.", "as_json")


def command(
    *lines: str, cls: Any = Quiet
) -> Callable[[Callable], click.Command]:
    """A command with lines that show how it is typed."""
    return click.command(cls=cls, epilog="\n  ".join(["\b\nExamples:", *lines]))


def guarded(call: Callable[[], int | None], as_json: bool = False) -> int:
    """Run a command; whatever goes wrong becomes a line and an exit code."""
    try:
        code = 0
        with reader_may_go():
            code = call() or 0
            sys.stdout.flush()
        return code
    except click.ClickException as error:
        error.show()
        code, why = error.exit_code, error.format_message()
    except (click.Abort, KeyboardInterrupt):
        code, why = STOPPED, "stopped"
        tell(why)
    except Exception as error:
        if os.environ.get("SPEECHLLM_DEBUG"):
            raise
        code = FAILED if isinstance(error, MENDABLE) else OURS
        why = str(error).strip() or type(error).__name__
        if isinstance(error, OSError):
            from speechllm.command import disk_words

            why = disk_words(error) or why
        if code == OURS:
            why = (
                f"{type(error).__name__}: {why} (this should not happen; "
                "SPEECHLLM_DEBUG=1 shows where)"
            )
        tell(f"Error: {why}")
    if as_json:
        print_json({"error": why, "exit_code": code})
    return code
