"""HTTP compression: gzip, deflate, lz4 and zstd, either way."""

import sys
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_COMPRESS: dict[str, Callable[[], Any]] = {
    "zstd": zstd.ZstdCompressor,
    "gzip": lambda: zlib.compressobj(level=1, wbits=31),
    "deflate": lambda: zlib.compressobj(level=1),
    "lz4": lz4.frame.LZ4FrameCompressor,
}
_DECOMPRESS: dict[str, Callable[[], Any]] = {
    "zstd": zstd.ZstdDecompressor,
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "deflate": zlib.decompressobj,
    "lz4": lz4.frame.LZ4FrameDecompressor,
}
_PLAIN = ("", "identity")
CODINGS = {*_PLAIN, *_DECOMPRESS}  # of a body that can be read


def compressor(accepted: str) -> tuple[str, Callable[[bytes | None], bytes]]:
    """The coding to use of those in an Accept-Encoding header, '' for none, and what compresses piece by piece.

    None in place of a piece ends it.
    """
    names = [part.partition(";")[0].strip() for part in accepted.split(",")]
    coding = next((name for name in names if name in _COMPRESS), "")
    if not coding:
        return "", lambda piece: piece or b""
    working = _COMPRESS[coding]()
    begin = [working.begin()] if coding == "lz4" else []

    def compress(piece: bytes | None) -> bytes:
        done = working.flush() if piece is None else working.compress(piece)
        return (begin.pop() if begin else b"") + done

    return coding, compress


async def decompressor(body: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """The body's pieces as they were before they were compressed; `coding` is one of CODINGS."""
    if coding in _PLAIN:
        async for piece in body:
            yield piece
        return
    working = _DECOMPRESS[coding]()
    async for piece in body:
        while piece:
            if plain := working.decompress(piece):
                yield plain
            # What follows the end of a frame is the next one: clients compress block by block.
            piece = getattr(working, "unused_data", b"") or b""
            if piece:
                working = _DECOMPRESS[coding]()
