"""What a picture's file says before a decoder looks at it: its kind, a JPEG's scans, and what in it is not pixels."""

import re
import struct
import zlib

from vdx_udf import settings

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_ICO = b"\0\0\1\0"
_JXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"
_START_OF_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff+([^\xff\x00\x01\xd0-\xd7])")  # none of those that stand alone
_EXIF_ITEM = re.compile(rb"(infe.{8})Exif", re.DOTALL)
_ORIENTATION = 0x0112
_MOST_PARTS = 100_000  # chunks of a PNG, markers of a JPEG: beyond what any writer makes, and a second of work
_MOST_TEXT = 1 << 20  # bytes of a text that Pillow unpacks


def extra_of(content: bytes) -> str | None:
    """The extra of vdx-udf that reads this content, where Pillow alone does not."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS and b"avif" not in content[8:64]:
        return "heic"
    return "jxl" if content.startswith(_JXL) else None


def is_ico(content: bytes) -> bool:
    """Whether it is an icon file, which Pillow decodes as it opens it."""
    return content.startswith(_ICO)


def is_tga(content: bytes) -> bool:
    """TGA begins with no mark of its own: it is believed by its footer, or by a header that contradicts itself nowhere."""
    if content.endswith(_TGA_FOOTER):
        return True
    if len(content) < 18:
        return False
    id_length, map_kind, kind, first, length, map_bits, width, height, bits, flags = struct.unpack_from(
        "<BBBHHBxxxxHHBB", content
    )
    has_map = kind in (1, 9)
    map_fits = map_bits in (15, 16, 24, 32) and first + length <= 256 if has_map else not (first or length or map_bits)
    if map_kind != has_map or not map_fits or flags & 0xC0 or flags & 15 not in (0, 1, 8):
        return False
    if bits not in {1: (8,), 9: (8,), 2: (16, 24, 32), 10: (16, 24, 32), 3: (8, 16), 11: (8, 16)}.get(kind, ()):
        return False
    body = len(content) - 18 - id_length - has_map * length * ((map_bits + 7) // 8)
    pixels, size = width * height, bits // 8
    return pixels > 0 and (body >= pixels * size if kind < 9 else body >= -(-pixels // 128) * (1 + size))


def scans(content: bytes, most: int) -> int:
    """How many scans a JPEG has, whatever its format is called; 0 of another content.

    Counted by their marks alone while these are at most `most`. Beyond, those outside the first picture are left out: a
    phone's film behind it holds such bytes by accident.
    """
    if not content.startswith(_JPEG):
        return 0
    marks = content.count(_START_OF_SCAN)
    if marks <= most:
        return marks
    found, at = 0, 2
    for _ in range(_MOST_PARTS):
        marker = _MARKER.search(content, at)
        if marker is None or marker[1] == b"\xd9" or found > most:
            return found
        found += marker[1] == b"\xda"
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return marks


def pixels_only(content: bytes) -> bytes:
    """Of a PNG the chunks that pixels depend on, and what may say how it is turned; others can be broken or huge."""
    if not content.startswith(_PNG):
        return content
    kept, at = [_PNG], len(_PNG)
    for _ in range(_MOST_PARTS):
        if at + 8 > len(content):
            return b"".join(kept)
        length, kind = struct.unpack_from(">I4s", content, at)
        if not kind[0] & 32 or _is_sound(kind, content[at + 8 : at + 12 + length], content[25]):  # a capital letter: critical
            kept.append(content[at : at + 12 + length])
        at += 12 + length
        if kind == b"IEND":
            return b"".join(kept)
    return content


def png_profile(content: bytes) -> bytes:
    """The colour profile that a PNG embeds; b"" where there is none, and where it is broken or too long."""
    at = len(_PNG)
    for _ in range(_MOST_PARTS if content.startswith(_PNG) else 0):
        if at + 8 > len(content):
            break
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"iCCP":
            _, _, packed = content[at + 8 : at + 8 + length].partition(b"\0")
            stream = zlib.decompressobj()
            try:
                profile = stream.decompress(packed[1:], settings.MAX_PROFILE_BYTES)
            except zlib.error:
                return b""
            return profile if stream.eof else b""
        if kind == b"IDAT":
            break
        at += 12 + length
    return b""


def _is_sound(kind: bytes, body: bytes, colour: int) -> bool:
    """Whether a chunk beside the pixels, its checksum included, is one that counts and that Pillow can read."""
    if kind not in (b"tRNS", b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
        return False
    data, checksum = body[:-4], body[-4:]
    if zlib.crc32(kind + data) != int.from_bytes(checksum, "big"):
        return False
    if kind == b"tRNS":
        return len(data) >= {0: 2, 2: 6}.get(colour, 0)
    if kind == b"eXIf":
        return True
    keyword, _, text = data.partition(b"\0")
    if keyword not in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
        return False
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if not is_packed:
        return len(text) <= _MOST_TEXT
    stream = zlib.decompressobj()
    try:
        stream.decompress(text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1], _MOST_TEXT)
    except zlib.error:
        return False
    return text[:1] == (b"\0" if kind == b"zTXt" else b"\1") and not stream.unconsumed_tail


def bare(content: bytes) -> tuple[bytes, bytes]:
    """A JPEG without what applications put beside its pixels, JFIF's and Adobe's colours excepted, and its EXIF block.

    An AVIF, which has its orientation outside EXIF, with that block called something else. Another content as it is.
    """
    if content[4:8] == b"ftyp":
        return _EXIF_ITEM.sub(rb"\1none", content, count=1), b""
    if not content.startswith(_JPEG):
        return content, b""
    kept, exif, at = [content[:2]], b"", 2
    for _ in range(_MOST_PARTS):
        marker = _MARKER.search(content, at)
        if marker is None or marker[1] == _START_OF_SCAN[1:]:
            break
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
        segment = content[marker.start() : at]
        if marker[1] == b"\xe1" and content[marker.end() + 2 :].startswith(b"Exif\0\0"):
            exif = content[marker.end() + 2 : at]
        elif not 0xE1 <= marker[1][0] <= 0xFE or marker[1] == b"\xee":
            kept.append(segment)
    return b"".join((*kept, content[at:])), exif


def exif_orientation(exif: bytes) -> int:
    """The orientation by an EXIF block in which all else may be broken; 1, upright, where it says none."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, at)
        for place in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, place)
            if (tag, kind) == (_ORIENTATION, 3):
                return value
    except struct.error:
        pass
    return 1
