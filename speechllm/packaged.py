"""What comes along: recipes, backbones, encoders, the mini world's models.

``package:backbones/qwen2.5-7b.yaml``, ``package:models/mini-qwen2``: names that
hold in a clone, in a wheel, and in a recipe that was copied out of it.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

PREFIX = "package:"
KINDS = ("models", "backbones", "encoders")
PACKAGE = Path(__file__).resolve().parent
# A link in a recipe's hparams led there; what is in the way is the user's own.
EARLIER = re.compile(r"(.*/)?models/(?=(backbones|encoders)/)")


def folder_of(what: str) -> Path:
    """``recipes`` or ``hparams``: in a wheel's package, or beside a clone's."""
    inside = PACKAGE / what
    return inside if inside.is_dir() else PACKAGE.parent / what


def packaged_path(name: str) -> str:
    """The path behind a `package:` name; any other name as it is."""
    if not name.startswith(PREFIX):
        return name
    kind, _, rest = name.removeprefix(PREFIX).partition("/")
    if kind not in KINDS:
        mend = f"begin with {', '.join(f'{PREFIX}{kind}/' for kind in KINDS)}"
        raise ValueError(f"{name}: nothing of the package is called so: {mend}")
    top = PACKAGE / "mini_world" if kind == "models" else folder_of("hparams")
    known = sorted(p.name for p in (top / kind).iterdir() if p.suffix != ".md")
    if rest not in known:
        near = difflib.get_close_matches(rest, known, 1)
        mend = f"did you mean {PREFIX}{kind}/{near[0]}?" if near else ""
        raise ValueError(
            f"{name}: does not come with the package: "
            + (mend or f"known are {', '.join(known)}")
        )
    return str(top / kind / rest)


def included_path(name: str, folder: str | os.PathLike) -> str:
    """The whole path of an include that a file in a folder names."""
    path = os.path.abspath(os.path.join(folder, packaged_path(name)))
    if not os.path.exists(path) and EARLIER.match(name):
        return packaged_path(EARLIER.sub(PREFIX, name))
    return path
