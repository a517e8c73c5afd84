"""What a run says of each utterance, in files beside its result.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
from pathlib import Path

from speechbrain_ext.results.files import plain, write_text

LOSSES_FILE = "losses-valid.jsonl"


def write_hypotheses(folder, set_name, rows):
    """Write ``hypotheses-<set>.jsonl`` beside a run's result.

    Arguments
    ---------
    folder : str or Path
        The run's folder.
    set_name : str
        The evaluation set, such as "test-clean".
    rows : iterable of dict
        A row per utterance: id, reference, hypothesis, errors.

    Returns
    -------
    Path
        The file.

    Example
    -------
    >>> rows = [{"id": "a", "reference": "b", "hypothesis": "c"}]
    >>> write_hypotheses(str(getfixture("tmpdir")), "dev", rows).name
    'hypotheses-dev.jsonl'
    """
    if not set_name or "/" in set_name or "\\" in set_name:
        raise ValueError(
            f"{set_name!r} cannot be part of a file's name: name the set "
            "without slashes"
        )
    return _write(Path(folder) / f"hypotheses-{set_name}.jsonl", rows)


def write_losses(folder, rows):
    """Write ``losses-valid.jsonl`` beside a run's result.

    The result's final loss is the sum of the losses over that of the tokens;
    single utterances are what an interval is drawn from.

    Arguments
    ---------
    folder : str or Path
        The run's folder.
    rows : iterable of dict
        A row per validation utterance: id, loss (nats, summed over the
        target), tokens.

    Returns
    -------
    Path
        The file.

    Example
    -------
    >>> rows = [{"id": "a", "loss": 0.5, "tokens": 4}]
    >>> file = write_losses(str(getfixture("tmpdir")), rows)
    >>> file.name, read_utterances(file) == rows
    ('losses-valid.jsonl', True)
    """
    return _write(Path(folder) / LOSSES_FILE, rows)


def _write(path, rows):
    """Write a row a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(plain(row), ensure_ascii=False) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))
    return path


def read_utterances(path):
    """Read the rows that `write_hypotheses` or `write_losses` wrote.

    Arguments
    ---------
    path : str or Path
        A ``hypotheses-<set>.jsonl`` or ``losses-valid.jsonl``.

    Returns
    -------
    list of dict
        A row per utterance.

    Raises
    ------
    ValueError
        If a line is not JSON: names file and line.

    Example
    -------
    >>> rows = [{"id": "a", "reference": "b", "hypothesis": "c"}]
    >>> file = write_hypotheses(str(getfixture("tmpdir")), "dev", rows)
    >>> read_utterances(file) == rows
    True
    """
    rows = []
    # Split at newlines only: a text may hold other line separators.
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not JSON ({error}); evaluate the "
                "run again to write it anew"
            ) from error
    return rows
