"""What MkDocs and mkdocstrings call while `make docs` builds the site."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from griffe import Extension
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))

import docs_site  # noqa: E402

FETCHED = re.compile(
    r"<(?:script|img|iframe|link|source)\b[^>]*(?:src|href)=\"https?:[^>]*>"
)


class Headings(Extension):
    """SpeechBrain's headings of docstrings, in NumPy's words."""

    def on_instance(self, *, obj, **options):
        """``Arguments`` are parameters, an ``Example`` is one of several."""
        if obj.docstring:
            text = obj.docstring.value
            text = re.sub(
                r"(?m)^Arguments\n-{9}$", "Parameters\n----------", text
            )
            text = re.sub(r"(?m)^Example\n-{7}$", "Examples\n--------", text)
            obj.docstring.value = text


def on_config(config):
    """Pages that the navigation does not name come last."""
    named = set(re.findall(r"[\w./-]+\.md", str(config.nav)))
    docs = Path(config.docs_dir)
    here = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    here |= set(docs_site.pages())
    if more := sorted(here - named):
        config.nav.append({"More": more})
    return config


def on_files(files, config):
    """Add the pages that are not in docs/, and the notebooks."""
    for uri in docs_site.pages():
        text = (docs_site.ROOT / uri).read_text("utf-8")
        files.append(File.generated(config, uri, content=text))
    for path in sorted((docs_site.ROOT / "docs/tutorials").glob("*.ipynb")):
        uri = f"tutorials/{path.stem}.md"
        page = docs_site.notebook_page(path)
        files.append(File.generated(config, uri, content=page))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fill in what is made, and mend links."""
    text = docs_site.MARK.sub(
        lambda match: docs_site.GENERATED[match[1]](), markdown
    )
    uri = page.file.src_uri
    known = set(docs_site.pages())
    here = uri if uri in known else f"docs/{uri}"
    return docs_site.relinked(text, here, uri, known)


def on_post_page(output, page, config):
    """Refuse a page that would fetch something from elsewhere."""
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri}: fetches {found[0]}")
    return output
