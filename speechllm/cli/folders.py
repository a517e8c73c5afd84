"""``speechllm export``, ``push`` and ``info``: folders of models."""

from __future__ import annotations

import os
from typing import Any

import click

from speechllm.cli.common import (
    command,
    device_option,
    flag,
    json_option,
    output_folder,
    print_json,
    tell,
)
from speechllm.device import pick_device


@command(
    "speechllm export results/mini_prune my-model",
    "speechllm export results/qwen7b_prune my-model --merge",
    "speechllm export results/asr results/en_de my-model",
    "speechllm export my-model backbone.gguf --gguf q8_0",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN... [DIR]")
@output_folder("The export's folder; or name it last, as DIR.")
@flag("--merge", "Fold the adapter into the backbone.")
@click.option(
    "--license", "licence", help="The backbone's; by default its card's."
)
@flag("--overwrite", "Replace an earlier export.")
@click.option("--shard-size", default="5GB", show_default=True)
@device_option
@click.option(
    "--gguf",
    type=click.Choice(("f16", "q8_0")),
    is_flag=False,
    flag_value="f16",
    help="Write the backbone for llama.cpp as well, as DIR-f16.gguf; or, of "
    "an export or a causal LM, it alone: LM FILE.gguf --gguf.",
)
@json_option
def export(
    runs: tuple[str, ...],
    output: str | None,
    device: str | None,
    gguf: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write finished RUNs as a plain folder DIR to load anywhere.

    Several runs on one pruned backbone become tasks of one export. What was
    written is read back and compared before it gets its name.
    """
    *named, folder = runs if output is None else (*runs, output)
    if not named:
        raise click.UsageError("name the export's folder, last or by --output")
    if gguf:
        from speechllm.export.gguf_file import check_gguf, write_gguf

        runs_given = os.path.isfile(os.path.join(named[0], "result.json"))
        if not runs_given and len(named) > 1:
            raise click.UsageError("--gguf takes one model: MODEL FILE.gguf")
        file = f"{folder.rstrip('/')}-{gguf}.gguf" if runs_given else folder
        how = file, gguf, options["overwrite"]
        check_gguf(*how)
        if not runs_given:
            _tell_gguf(write_gguf(named[0], *how), as_json)
            return
    from speechllm.export.write import export_runs

    report = export_runs(
        named, folder, device=pick_device(device), tell=tell, **options
    )
    if gguf:
        report["gguf"] = write_gguf(folder, *how)
    if as_json:
        print_json(report)
        return
    if gguf:
        _tell_gguf(report["gguf"])
    click.echo(
        f"{folder}: {', '.join(report['tasks'])}; {report['layers']} layers "
        f"({len(report['removed'])} removed), {_mib(report['bytes'])}"
    )
    for task, found in report["differences"].items():
        largest = max(found["logits_NV"], found["lm_logits_QV"])
        text = "same text"
        if "tokens_from" in found:
            text = f"another text from token {found['tokens_from']} on (a tie "
            text += "within rounding)"
        click.echo(
            f"  {task}: largest difference of logits {largest:.1e}, {text}"
        )


def _tell_gguf(report, as_json=False):
    """What a GGUF file holds, and what it does not."""
    if as_json:
        print_json(report)
        return
    click.echo(
        f"{report['file']}: {report['layers']} layers, {report['kind']}, "
        f"{_mib(report['bytes'])}"
    )
    if report["left_out"]:
        tell(f"not in it: {', '.join(report['left_out'])}")


@command(
    "speechllm push my-model someone/speech-llm",
    "speechllm push my-model someone/speech-llm --upload",
)
@click.argument("folder", metavar="DIR")
@click.argument("repo_id", metavar="REPOSITORY")
@flag("--upload", "Do it; otherwise only tell.")
@flag("--public", "A new repository is public.")
@click.option("--revision", help="Branch to upload to.")
@json_option
def push(
    folder: str, repo_id: str, upload: bool, public: bool, as_json: bool, **how
) -> None:
    """Put an export on a hub; without --upload, say what would go there."""
    from speechllm.export.hub import push as push_export

    report = push_export(
        folder, repo_id, dry_run=not upload, private=not public, **how
    )
    if as_json:
        print_json(report)
        return
    for name, size in report["files"].items():
        click.echo(f"{size:14,d}  {name}")
    if report["uploaded"]:
        click.echo(f"Uploaded {_mib(report['bytes'])} to {report['url']}")
    else:
        click.echo(
            f"Nothing was uploaded. {_mib(report['bytes'])} would go to "
            f"{repo_id}; add --upload to do it."
        )


@command(
    "speechllm info my-model",
    "speechllm info results/mini_prune --json",
    "speechllm info table.json",
)
@click.argument("path", metavar="DIR")
@json_option
def info(path: str, as_json: bool) -> None:
    """What a folder or file is: an export, a run, a table, a model."""
    from speechllm.cli.describe import describe

    about = describe(path)
    if as_json:
        print_json(about)
        return
    for key, value in about.items():
        if isinstance(value, dict):
            click.echo(f"{key}:")
            for name, one in value.items():
                click.echo(f"  {name}: {_short(one)}")
        else:
            click.echo(f"{key}: {_short(value)}")


def _short(value):
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_short, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return os.fspath(value) if isinstance(value, str) else str(value)


def _mib(size):
    return f"{size / 2**20:.1f} MiB"
