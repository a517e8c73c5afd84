"""What all commands share: options, progress, and how a command ends.

Exit codes: 0 done; 1 refused or failed, with a line that says why; 2 wrong
usage; 3 done in part (some files failed); 70 a fault of ours; 130 stopped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import click

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


def quiet() -> None:
    """Libraries keep still from here on (call before using them)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from speechbrain_ext.quiet import quiet_libraries

    quiet_libraries()


def show_progress(as_json: bool = False) -> bool:
    """Whether bars are wanted: on a terminal that a person looks at."""
    return sys.stderr.isatty() and not as_json


def tell(line: str) -> None:
    """A line for the person at the terminal, not for a pipe."""
    click.echo(line, err=True)


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


def file_option(name: str, about: str, **more: Any) -> Decorator:
    """An option that names a file."""
    kind = click.Path(dir_okay=False)
    return click.option(name, type=kind, help=about, **more)


def options_of_a_model(*more_types: str) -> Decorator:
    """Where a model is put, and of which type its weights are."""
    types = ("float32", "bfloat16", "float16", *more_types)
    return options(
        click.option(
            "--device",
            help="Such as cpu or cuda; by default a GPU if there is.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(types),
            help="Type of the weights; by default as they are stored.",
        ),
    )


model_options = options_of_a_model()
export_options = options_of_a_model("int8")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for machines."
)


def pick_device(device: str | None) -> str:
    """The device asked for, or a GPU if there is one."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def command(*lines: str) -> Callable[[Callable], click.Command]:
    """A command with lines that show how it is typed."""
    return click.command(epilog="\n  ".join(["\b\nExamples:", *lines]))


def guarded(call: Callable[[], int | None], as_json: bool = False) -> int:
    """Run a command; whatever goes wrong becomes a line and an exit code."""
    try:
        return call() or 0
    except click.ClickException as error:
        error.show()
        code, why = error.exit_code, error.format_message()
    except (click.Abort, KeyboardInterrupt):
        code, why = STOPPED, "stopped"
        tell(why)
    except BrokenPipeError:
        # The reader has seen enough; nothing more can be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("SPEECHLLM_DEBUG"):
            raise
        code = FAILED if isinstance(error, MENDABLE) else OURS
        why = str(error).strip() or type(error).__name__
        if code == OURS:
            why = (
                f"{type(error).__name__}: {why} (this should not happen; "
                "SPEECHLLM_DEBUG=1 shows where)"
            )
        tell(f"Error: {why}")
    if as_json:
        print_json({"error": why, "exit_code": code})
    return code
