"""Whether Triton is to be had."""

import functools


@functools.cache
def triton_imports() -> bool:
    """Whether triton imports here; it comes with torch for CUDA on Linux."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
