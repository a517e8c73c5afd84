"""Pictures and pages onto the disk, and what could not be made."""

from __future__ import annotations

import base64
import html
import re
import sys
from collections.abc import Callable
from pathlib import Path

from speechllm.report.paper_tables import PAPERS

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64em; margin: 2em auto;
  padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 14px; margin: 1em 0;
  display: block; overflow-x: auto; }
th, td { padding: .3em .7em; text-align: left; border-bottom: 1px solid #ddd;
  vertical-align: top; }
th { border-bottom: 2px solid #222; }
tr.paper td { color: #555; font-style: italic; background: #f6f6f6; }
img { max-width: 100%; }
"""
# What runs are called and failed of is text: no tag or link of theirs.
NO_TEXT = ("html", "autolink", "automail", "link")


def try_to_draw(path: Path, draw: Callable, data, **how) -> str:
    """Draw a picture; why not if it cannot be, or nothing."""
    try:
        draw(data, path, **how)
    except (ValueError, ImportError) as error:
        # An older picture would pass for one of these results.
        for old in (path, path.with_suffix(".pdf")):
            old.unlink(missing_ok=True)
        print(f"{path}: not drawn: {error}", file=sys.stderr)
        return str(error)
    return ""


def as_html(text: str, folder: str | Path, title: str) -> str:
    """A report in Markdown as one page that needs no other file."""
    try:
        from markdown import Markdown
    except ImportError as error:
        raise ImportError(
            "the page needs the package markdown, which is not installed: "
            "pip install markdown matplotlib"
        ) from error
    parser = Markdown(extensions=["tables"])
    parser.preprocessors.deregister("html_block")
    for pattern in NO_TEXT:
        parser.inlinePatterns.deregister(pattern)
    body = parser.convert(text)
    theirs = f"<tr>\n<td>{PAPERS}</td>"
    body = body.replace(theirs, theirs.replace("tr", 'tr class="paper"', 1))
    body = re.sub(r'src="([^"]+)"', lambda m: _embedded(folder, m[1]), body)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _embedded(folder, name):
    """A picture's bytes in place of its name."""
    data = base64.b64encode((Path(folder) / name).read_bytes())
    return f'src="data:image/png;base64,{data.decode()}"'
