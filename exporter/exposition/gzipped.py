"""Builds gzip responses from separately compressed parts, so that only changed parts are compressed again."""

import struct
import zlib
from collections.abc import Iterable
from types import ModuleType

try:
    from isal import isal_zlib

    _zlib: ModuleType = isal_zlib
except ImportError:  # isal has no wheels for some platforms; zlib writes the same format more slowly
    _zlib = zlib

LEVEL = 1
"""Compression level. Here isal is four times as fast as zlib, with about the same size."""

_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"
"""A gzip header: deflate, no name, no time, fastest, system unknown (RFC 1952)."""


def deflated(part: bytes) -> bytes:
    """Return a compressed part that can follow any other: it ends at a byte boundary and refers to no other part."""
    compressor = _zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return bytes(compressor.compress(part) + compressor.flush(zlib.Z_FULL_FLUSH))


_END = b"\x03\x00"
"""An empty last block (RFC 1951)."""


def member(parts: Iterable[bytes], compressed: Iterable[bytes]) -> bytes:
    """Return a complete gzip response. `parts`: plain bytes. `compressed`: `deflated` of each part."""
    checksum = length = 0
    for part in parts:
        checksum = _zlib.crc32(part, checksum)
        length += len(part)
    return b"".join((_HEADER, *compressed, _END, struct.pack("<LL", checksum, length & 0xFFFFFFFF)))
