"""Tables of tab-separated values, as corpora of sentences come.

Authors
 * The speechbrain_ext authors, 2026
"""

import csv
import os

from speechbrain_ext.preparation.utterances import PreparationError


def read_tsv(file, columns, mend):
    r"""Rows of a table, their cells cleaned.

    Backslashes escape tabs, quotes and themselves there, as CoVoST's own
    script writes them; nothing is quoted.

    Arguments
    ---------
    file : str
        The table.
    columns : list of str
        What it must have.
    mend : str
        How to get a right one.

    Returns
    -------
    rows : list of tuple
        Place ("a.tsv, line 2"), header and cells of each.
    notes : str
        What was cleaned, for the log.

    Raises
    ------
    PreparationError
        If it is not such a table at all.

    Example
    -------
    >>> file = getfixture("tmpdir").join("a.tsv")
    >>> file.write("path\ttext\na.mp3\tgood  day\n")
    >>> read_tsv(str(file), ["path"], "make it again")
    ([('a.tsv, line 2', ['path', 'text'], ['a.mp3', 'good day'])], '')
    """
    name, rows, tabs, quoted = os.path.basename(file), [], 0, 0
    blank = 0
    try:
        with open(file, newline="\n", encoding="utf-8-sig") as stream:
            lines = csv.reader(
                (_one_row(line) for line in stream),
                delimiter="\t",
                quoting=csv.QUOTE_NONE,
                escapechar="\\",
            )
            header = next(lines, [])
            lacking = [c for c in columns if c not in header]
            if lacking:
                raise PreparationError(
                    f"{file}: no column {', '.join(lacking)} (there is "
                    f"{', '.join(header) or 'nothing'}): {mend}"
                )
            for cells in lines:
                if not "".join(cells).strip():
                    blank += 1
                    continue
                tabs += any("\t" in cell for cell in cells)
                quoted += any(unquoted(cell) != cell for cell in cells)
                plain = [" ".join(unquoted(cell).split()) for cell in cells]
                rows.append((f"{name}, line {lines.line_num}", header, plain))
    except (UnicodeDecodeError, csv.Error) as error:
        raise PreparationError(
            f"{file}: cannot be read as a table ({error}): fetch it again"
        ) from error
    if not rows:
        raise PreparationError(f"{file}: holds no utterance: {mend}")
    notes = f", tabs inside {tabs} rows made spaces" if tabs else ""
    if quoted:
        notes += f", a CSV writer's quotes taken off in {quoted} rows"
    if blank:
        notes += f", {blank} blank lines passed over"
    return rows, notes


def _one_row(line):
    """A line whose carriage returns end no row: line feeds alone do."""
    end = "\n" if line.endswith("\n") else ""
    return line.rstrip("\r\n").replace("\r", " ") + end


def unquoted(text):
    """A cell without the quotes that a CSV writer put around it.

    Some of Common Voice's sentences were quoted once on their way. Quotes
    that the sentence itself begins and ends with stay: their inner ones, if
    there are any, are not doubled.

    Arguments
    ---------
    text : str
        The cell.

    Returns
    -------
    str

    Example
    -------
    >>> unquoted('"Ein ""Ja"" reicht."'), unquoted('"Ja."')
    ('Ein "Ja" reicht.', '"Ja."')
    """
    inside = text[1:-1]
    wrapped = len(text) > 1 and text[0] == text[-1] == '"'
    if wrapped and '""' in inside and '"' not in inside.replace('""', ""):
        return inside.replace('""', '"')
    return text
