"""A report's parts, written as Markdown and as one self-contained page."""

import base64
import html
from dataclasses import dataclass
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64em; margin: 2em auto;
  padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 14px; margin: 1em 0; }
th, td { padding: .3em .7em; text-align: left; border-bottom: 1px solid #ddd;
  vertical-align: top; }
th { border-bottom: 2px solid #222; }
tr.paper td { color: #555; font-style: italic; background: #f6f6f6; }
.wide { overflow-x: auto; }
img { max-width: 100%; }
figcaption { color: #444; font-size: 14px; }
"""


@dataclass
class Heading:
    """A section's title."""

    text: str
    level: int = 2

    def markdown(self):
        """Of this part (str)."""
        return f"{'#' * self.level} {self.text}\n"

    def html(self, folder):
        """Of this part (str)."""
        return f"<h{self.level}>{html.escape(self.text)}</h{self.level}>"


@dataclass
class Text:
    """A paragraph."""

    text: str

    def markdown(self):
        """Of this part (str)."""
        return self.text + "\n"

    def html(self, folder):
        """Of this part (str)."""
        return f"<p>{html.escape(self.text)}</p>"


@dataclass
class Lines:
    """A list."""

    items: list

    def markdown(self):
        """Of this part (str)."""
        return "".join(f"- {item}\n" for item in self.items)

    def html(self, folder):
        """Of this part (str)."""
        items = "".join(f"<li>{html.escape(i)}</li>" for i in self.items)
        return f"<ul>{items}</ul>"


@dataclass
class Picture:
    """A picture, embedded in the page."""

    file: str
    caption: str

    def markdown(self):
        """Of this part (str)."""
        return f"![{self.caption}]({self.file})\n\n{self.caption}\n"

    def html(self, folder):
        """Of this part (str)."""
        data = base64.b64encode((Path(folder) / self.file).read_bytes())
        caption = html.escape(self.caption)
        return (
            f'<figure><img alt="{caption}" '
            f'src="data:image/png;base64,{data.decode()}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )


def as_markdown(parts):
    """A report as Markdown."""
    return "\n".join(part.markdown() for part in parts)


def as_html(parts, folder, title):
    """A report as one page that needs no other file."""
    body = "\n".join(part.html(folder) for part in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )
