"""What a result was made with: fingerprints of settings and packages.

Authors
 * The speechbrain_ext authors, 2026
"""

import hashlib
import json
import platform
from importlib import metadata

from speechbrain_ext.results.files import plain

PACKAGES = (
    "torch",
    "torchaudio",
    "av",
    "transformers",
    "peft",
    "speechbrain",
    # This one, whatever it is part of.
    __name__.split(".")[0],
    "sacrebleu",
    "numpy",
)


def configuration_hash(configuration):
    """A fingerprint of a configuration: equal settings, equal hash.

    Arguments
    ---------
    configuration : dict
        Plain values; the order of the keys does not matter.

    Returns
    -------
    str
        The first 16 hexadecimal digits of a SHA-256.

    Example
    -------
    >>> configuration_hash({"a": 1, "b": 2}) == configuration_hash(
    ...     {"b": 2, "a": 1}
    ... )
    True
    """
    text = json.dumps(plain(configuration), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions():
    """Versions of Python and of the packages that a score depends on.

    Returns
    -------
    dict of str to str
        Names to versions; "not installed" where a package is absent.

    Example
    -------
    >>> versions()["python"] == platform.python_version()
    True
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
