"""Power."""


def faults(setting):
    """Nothing yet."""
    yield from ()
