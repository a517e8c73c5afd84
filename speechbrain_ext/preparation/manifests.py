"""Manifests, and what they were made from: written whole or not at all.

Authors
 * The speechbrain_ext authors, 2026
"""

import csv
import io
import json
import os
from pathlib import Path

from speechbrain_ext.preparation.utterances import PreparationError
from speechbrain_ext.results import write_json
from speechbrain_ext.results.files import write_text


def write_split(split, save_folder, columns):
    """Write a split's manifest, and the list of what was left out.

    Arguments
    ---------
    split : Split
        With durations known.
    save_folder : str
        Where to.
    columns : list of str
        Columns of the manifest after ID and duration.

    Raises
    ------
    PreparationError
        If no utterance is good.

    Example
    -------
    >>> from speechbrain_ext.preparation import Split, Utterance
    >>> folder = getfixture("tmpdir")
    >>> split = Split("dev", [Utterance("a", "1", {"wav": "b"}, 2.0)], "")
    >>> write_split(split, str(folder), ["wav"])
    >>> folder.join("dev.csv").read().split()
    ['ID,duration,wav', 'a,2.0,b']
    """
    write_left_out(split, save_folder)
    if not split.good:
        raise PreparationError(
            f"{split.name}: no utterance can be used; each one's fault is in "
            f"{left_out_file(split, save_folder)}"
        )
    rows = [
        [u.name, str(u.duration), *(u.row[column] for column in columns)]
        for u in split.good
    ]
    file = os.path.join(save_folder, f"{split.name}.csv")
    write_csv(file, ["ID", "duration", *columns], rows)


def write_left_out(split, save_folder):
    """List a split's bad utterances; no file where there are none.

    Arguments
    ---------
    split : Split
        Looked through.
    save_folder : str
        Where the list goes.

    Example
    -------
    >>> from speechbrain_ext.preparation import Split
    >>> write_left_out(Split("dev", []), str(getfixture("tmpdir")))
    """
    file = left_out_file(split, save_folder)
    if split.bad:
        rows = [[u.name, u.fault, u.detail, u.place] for u in split.bad]
        write_csv(file, ["ID", "fault", "detail", "place"], rows)
    else:
        # Runs that start together may each do this.
        Path(file).unlink(missing_ok=True)


def left_out_file(split, save_folder):
    """Where the bad utterances of a split are listed.

    Arguments
    ---------
    split : Split
        Whose.
    save_folder : str
        Where the lists stand.

    Returns
    -------
    str

    Example
    -------
    >>> from speechbrain_ext.preparation import Split
    >>> left_out_file(Split("dev", []), "out")
    'out/dev-left-out.csv'
    """
    return os.path.join(save_folder, f"{split.name}-left-out.csv")


def write_csv(path, header, rows):
    """Write a table whole or not at all, though others write it too."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_text(path, text.getvalue())


def require_manifests(save_folder, names):
    """Refuse to skip what was never prepared.

    Arguments
    ---------
    save_folder : str
        Where they stand.
    names : list of str
        The manifests, without ``.csv``.

    Raises
    ------
    PreparationError
        If a manifest is missing.

    Example
    -------
    >>> require_manifests("nowhere", [])
    """
    files = [f"{name}.csv" for name in names]
    lacking = [
        f for f in files if not os.path.isfile(os.path.join(save_folder, f))
    ]
    if lacking:
        raise PreparationError(
            f"skip_prep: True, but {save_folder} has no {', '.join(lacking)}: "
            "run once without skip_prep"
        )


class Fingerprints:
    """What the manifests of a folder were made from.

    Arguments
    ---------
    file : str
        Where that is noted.

    Example
    -------
    >>> from speechbrain_ext.preparation import Split
    >>> folder = getfixture("tmpdir")
    >>> done = Fingerprints(str(folder.join("done.json")))
    >>> done.fits(Split("dev", [], "x"))
    False
    """

    def __init__(self, file):
        self.file = file
        try:
            with open(file, encoding="utf-8") as stream:
                done = json.load(stream)
        except (OSError, ValueError):
            done = {}
        self.done = done if isinstance(done, dict) else {}

    def fits(self, split):
        """Whether a split's manifest is there and still right."""
        folder = os.path.dirname(self.file)
        manifest = os.path.join(folder, f"{split.name}.csv")
        same = self.done.get(split.name) == split.fingerprint
        return same and os.path.isfile(manifest)

    def note(self, split):
        """Note that a split's manifest was written."""
        self.done[split.name] = split.fingerprint
        write_json(self.file, self.done)


def file_state(path):
    """Bytes that change with a file's name, size or time.

    Arguments
    ---------
    path : str
        The file.

    Returns
    -------
    bytes

    Example
    -------
    >>> file_state("nowhere")
    b'nowhere|-1|-1\\n'
    """
    try:
        stat = os.stat(path)
        size, time = stat.st_size, stat.st_mtime_ns
    except OSError:
        size, time = -1, -1
    return f"{path}|{size}|{time}\n".encode()
