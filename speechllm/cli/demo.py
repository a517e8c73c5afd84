"""``speechllm demo``: a page in the browser."""

from __future__ import annotations

from typing import Any

import click

from speechllm.cli.common import command, export_options, file_option


@command(
    "speechllm demo my-model",
    "speechllm demo whole pruned-2 pruned-4 pruned-6",
    "speechllm demo whole pruned --table redundancy-speech.json",
    "speechllm demo someone/whole someone/pruned --space my-space",
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Who may come: by default this machine alone; 0.0.0.0: all.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="By default the first free one from 7860 on.",
)
@file_option(
    "--table",
    "A redundancy table (JSON) to draw; by default each recording's own.",
)
@click.option(
    "--space",
    type=click.Path(file_okay=False),
    help="Serve nothing; write the folder of a hub Space.",
)
@click.option(
    "--package",
    help="How a Space installs this package: a wheel file, or a requirement.",
)
@export_options
def demo(
    models: tuple[str, ...],
    table: str | None,
    space: str | None,
    package: str | None,
    **serving: Any,
) -> None:
    """Try MODELs on a page in the browser, the deepest beside the others.

    MODEL is a folder or a hub id, of an export. Nothing is sent elsewhere.
    """
    if space:
        from speechllm.demo.space import write_space

        for name in write_space(models, space, package, table):
            click.echo(f"{space}/{name}")
        return
    from speechllm.demo.page import serve

    serve(models, table=table, tell=click.echo, **serving)
