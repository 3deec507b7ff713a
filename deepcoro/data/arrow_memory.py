"""Bytes for Arrow's readers, in memory that Arrow owns.

Its threads may let go of what they read after the interpreter has begun to end. Given memory that Python owns they then ask for the
interpreter's lock and the process aborts ("terminate called without an active exception"): one command in thirty did, all its work done.
"""

import pyarrow


def reader_of(payload: bytes) -> pyarrow.BufferReader:
    """A reader of a copy of `payload`."""
    # plain malloc: Arrow's own pool reserves a gigabyte of addresses for the first byte, which a limited process may not have
    buffer = pyarrow.allocate_buffer(len(payload), pyarrow.system_memory_pool())
    with pyarrow.FixedSizeBufferWriter(buffer) as writer:
        writer.write(payload)
    return pyarrow.BufferReader(buffer)
