"""``speechllm transcribe``."""

from __future__ import annotations

import os
from typing import Any

import click

from speechllm.cli.common import (
    FAILED,
    PARTLY,
    Word,
    command,
    export_options,
    flag,
    output_folder,
    print_json,
    show_progress,
    tell,
)
from speechllm.cli.subtitles import FORMATS, ROWS

# What is called so is a recording; any other file of a folder is looked into.
AUDIO = (
    ".wav .flac .mp3 .ogg .oga .opus .m4a .mp4 .webm .aac .sph .aiff .aif .au"
).split()
MODEL = "SPEECHLLM_MODEL"


@command(
    "speechllm transcribe some.wav --model my-model",
    "speechllm transcribe talk.mp3 --format srt > talk.srt",
    "speechllm transcribe recordings/ --format vtt --output subtitles",
    "speechllm transcribe speech.flac --task ast_en_de --format json",
    "ffmpeg -i film.mkv -f wav - | speechllm transcribe - --vad",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--model",
    help="Exported folder or hub id; by default $SPEECHLLM_MODEL, or the one "
    "export that lies in this folder.",
)
@click.option("--task", help="The model's task; by default recognition.")
@click.option(
    "--format",
    "form",
    type=Word(FORMATS),
    default="txt",
    show_default=True,
    help="txt, json, jsonl (a recording a line), srt, vtt, tsv (a piece a "
    "row), ctm.",
)
@flag("--json", "As --format json.", "as_json")
@output_folder("Folder for a file per recording, not standard output.")
@click.option("--batch-size", type=click.IntRange(1), default=8)
@click.option(
    "--piece-seconds",
    type=click.FloatRange(0.1),
    help="Longest piece that is decoded at once; longer audio is cut at "
    "quiet points.",
)
@flag(
    "--vad",
    "Decode only where silero-vad hears speech (pip install 'speechllm[vad]').",
)
@flag("--stream", "Print the text as it is decoded (txt).")
@export_options
def transcribe(
    files: tuple[str, ...],
    model: str | None,
    form: str,
    as_json: bool,
    output: str | None,
    stream: bool,
    dtype: str | None,
    device: str | None,
    **options: Any,
) -> int:
    """Text of recordings, of any format, rate and length.

    wav, flac, mp3, ogg, opus, m4a, webm, sph and others; a folder stands for
    all recordings in it, - for one on standard input. Times are those of the
    pieces that are decoded at once: a word has none of its own, so subtitles
    and ctm share a piece's time among its words by their letters.
    """
    form = "json" if as_json else form
    files = _expand(files)
    if form in ("srt", "vtt") and len(files) > 1 and not output:
        raise click.UsageError(
            f"--format {form} with several files needs --output FOLDER"
        )
    if stream and (form != "txt" or output):
        raise click.UsageError("--stream prints text only, on the terminal")
    source = model or find_model()
    from speechllm.exported.model import ExportedSpeechLLM

    loaded = ExportedSpeechLLM.from_pretrained(source, dtype, device)
    opened = _opened(files)
    if stream:
        # One piece at a time.
        del options["batch_size"]
        for file in opened:
            for text in loaded.stream(file, **options):
                click.echo(text, nl=False)
            click.echo()
        return 0
    progress = show_progress(as_json)
    results = loaded.transcribe(
        opened, progress=progress, on_error="return", **options
    )
    return _write(files, results, form, output)


def find_model() -> str:
    """The model where none is named: the variable's, or the one lying here."""
    if os.environ.get(MODEL):
        return os.environ[MODEL]
    here = [".", *sorted(entry.path for entry in os.scandir("."))]
    found = [
        folder
        for folder in here
        if os.path.isfile(os.path.join(folder, "manifest.json"))
        and os.path.isdir(os.path.join(folder, "backbone"))
    ]
    if len(found) == 1:
        return found[0]
    several = f", and here are several: {', '.join(found)}" if found else ""
    raise click.UsageError(
        f"which model? Give --model FOLDER or set {MODEL}{several}."
    )


def _expand(files):
    """Folders become the recordings in them; says what else was there."""
    from speechllm.exported.audio import is_audio

    found = []
    if list(files).count("-") > 1:
        raise click.UsageError("-: standard input can be read once only")
    for file in files:
        if not os.path.isdir(file):
            found.append(file)
            continue
        inside = sorted(
            os.path.join(here, name)
            for here, _, names in os.walk(file)
            for name in names
            if not name.startswith(".")
        )
        recordings = [
            path
            for path in inside
            if os.path.splitext(path)[1].lower() in AUDIO or is_audio(path)
        ]
        others = sorted(set(inside) - set(recordings))
        if others:
            shown = ", ".join(others[:5])
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            tell(f"left out, no audio: {shown}{more}")
        if not recordings:
            raise click.UsageError(f"{file}: no recording in this folder")
        found += recordings
    return found


def _opened(files):
    """The files, standard input in the place of "-"."""
    stdin = click.get_binary_stream("stdin") if "-" in files else None
    return [stdin if file == "-" else file for file in files]


def _write(files, results, form, output):
    """Print or save; gives the exit code."""
    pairs = list(zip(files, results))
    failed = [one for one in results if isinstance(one, Exception)]
    for error in failed:
        tell(f"Error: {error}")
    done = [pair for pair in pairs if not isinstance(pair[1], Exception)]
    if output:
        _save(done, form, output)
    elif form in ROWS:
        for line in ROWS[form]([one for _, one in done]):
            click.echo(line)
    elif form == "json":
        print_json(
            [
                {"name": file, "error": str(one)}
                if isinstance(one, Exception)
                else one.as_dict()
                for file, one in pairs
            ]
        )
    else:
        for file, one in done:
            name = f"{file}\t" if len(files) > 1 else ""
            click.echo(name + FORMATS[form](one), nl=False)
    if failed:
        return PARTLY if done else FAILED
    return 0


def _save(done, form, output):
    """A file per recording; of two of one name, both keep their suffix."""
    from speechbrain_ext.runs.files import write_text

    os.makedirs(output, exist_ok=True)
    done = [("stdin" if file == "-" else file, one) for file, one in done]
    stems = [os.path.splitext(os.path.basename(file))[0] for file, _ in done]
    taken = set()
    for (file, one), stem in zip(done, stems):
        base = os.path.basename(file)
        name = f"{stem if stems.count(stem) == 1 else base}.{form}"
        if name in taken:
            raise ValueError(
                f"{file}: another recording is called {base} too: "
                "transcribe it with another --output"
            )
        taken.add(name)
        write_text(os.path.join(output, name), FORMATS[form](one))
        tell(f"wrote {os.path.join(output, name)}")
