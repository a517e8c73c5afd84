"""The earlier address of `speechllm.settings`."""

from speechllm.settings import (  # noqa: F401
    load_hparams,
    merge,
    parse_arguments,
)
