"""Look at plain values of a configuration.

Authors
 * The speechbrain_ext authors, 2026
"""

MISSING = object()


def get(plain, key):
    """The value of a key (nested with dots), or ``MISSING``.

    Arguments
    ---------
    plain : dict
        Plain values.
    key : str
        Such as ``backbone.source``.

    Returns
    -------
    object

    Example
    -------
    >>> get({"backbone": {"name": "tiny"}}, "backbone.name")
    'tiny'
    """
    for part in key.split("."):
        if not isinstance(plain, dict) or part not in plain:
            return MISSING
        plain = plain[part]
    return plain


def is_whole(value):
    """Whether a value is a whole number (true and false are none).

    Arguments
    ---------
    value : object
        Any.

    Returns
    -------
    bool

    Example
    -------
    >>> is_whole(3), is_whole(True)
    (True, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value):
    """Whether a value is a number (true and false are none).

    Arguments
    ---------
    value : object
        Any.

    Returns
    -------
    bool

    Example
    -------
    >>> is_number(0.5), is_number("0.5")
    (True, False)
    """
    return is_whole(value) or isinstance(value, float)
