"""``speechllm keys``: what the keys of the recipes' YAMLs mean."""

from __future__ import annotations

import dataclasses
import textwrap

import click

from speechllm.cli.common import command, json_option, print_json


@command(
    *("speechllm keys", "speechllm keys healing", "speechllm keys split"),
    # There is nothing to keep still, and it would take its time to load.
    cls=click.Command,
)
@click.argument("key", required=False)
@json_option
def keys(key: str | None, as_json: bool) -> None:
    """What a KEY of the recipes' YAMLs means; without one, all of them.

    With its default in LibriSpeech's recipe (or in the first that has it), and
    whether the paper states the value.
    """
    from speechllm.keys import FROM_PAPER, all_keys, by_section, find_keys

    try:
        found = find_keys(key) if key else list(all_keys().values())
    except KeyError as error:
        raise click.UsageError(error.args[0]) from None
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
    elif key:
        for one in found:
            click.echo(f"{one.name}: {one.default}")
            if one.about:
                click.echo(textwrap.indent(textwrap.fill(one.about, 76), "  "))
            for mark in filter(None, one.status.split(", ")):
                click.echo(f"  ({mark}: {FROM_PAPER[mark]})")
            click.echo(f"  recipes: {', '.join(one.recipes)}")
    else:
        for title, several in by_section({k.name: k for k in found}).items():
            click.echo(f"\n{title}")
            for one in several:
                click.echo(f"  {f'{one.name}: {one.default}':42} {one.about}")
