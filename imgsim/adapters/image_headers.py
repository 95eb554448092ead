"""What the first bytes and the headers of a file say, before any decoder sees them."""

import re
import struct

from imgsim.core.errors import BrokenImage, TooManyPixels

BIG_PIXELS = 25_000_000
"""A decode that holds more pixels than this has its turn alone."""
MAX_SCANS = 100
"""Scans of a JPEG of up to 25 MP, fewer above; encoders write about 10. As in libtiff. 2 s at worst."""
MAX_JPEG_MARKERS = 20_000
"""Segments of a JPEG; photos have 10 to 300."""
MAX_JPEG_HEADER = 8 * 1024 * 1024
"""Bytes before the first scan: Pillow joins EXIF segments in quadratic time, 12 s for 50 MB."""
MAX_TIFF_NUMBERS = 100_000
"""Numbers in one TIFF tag, that is strips: Pillow makes objects of them, 1 GB for 3 million."""
MAX_PNG_COMPRESSED = 100
"""Compressed metadata chunks of a PNG; Pillow inflates 1 MB of each."""
MAX_TIFF_ENTRIES = 200_000
"""Tags of a TIFF that are looked at; a picture has dozens."""

_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "image/heic"),
    **dict.fromkeys((b"mif1", b"msf1"), "image/heif"),
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
}
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),  # BigTIFF; Pillow does not read the big-endian one
)
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # baseline, extended, progressive, and arithmetic coding
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # neither stuffing nor restart nor fill
_SPATIAL_EXTENTS = re.compile(rb"ispe\0{4}")  # ISO/IEC 23008-12, 6.5.3: width and height of an item, before any crop


def sniff(head: bytes) -> str | None:
    """The content type that the first 64 bytes of a file show, or None when it is not one read here."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:2] == b"BM" and head[14:18] in {bytes((n, 0, 0, 0)) for n in (12, 40, 52, 56, 64, 108, 124)}:
        return "image/bmp"  # with the size of the second header: two letters alone are many a text
    if head[4:8] == b"ftyp":
        # Files of the general brand mif1 say among the compatible brands what is inside.
        compatible = head[16 : min(int.from_bytes(head[:4], "big"), 64)]
        brands = [head[8:12], *(compatible[at : at + 4] for at in range(0, len(compatible), 4))]
        found = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return next((kind for kind in found if kind != "image/heif"), found[0]) if head[8:12] in _BRANDS else None
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def check_header(data: bytes, content_type: str, max_pixels: int) -> tuple[bool, int]:
    """Refuse what the decoders would not. Raises ``BrokenImage``, ``TooManyPixels``, and errors of ``struct``.

    Returns whether libjpeg must hold all coefficients, and the pixels that a decoder holds before it says so.
    """
    buffered, ahead = False, 0
    if content_type == "image/jpeg":
        buffered = _jpeg_is_buffered(data, max_pixels)
    elif content_type == "image/png":
        if sum(map(data.count, (b"iCCP", b"iTXt", b"zTXt"))) > MAX_PNG_COMPRESSED:
            raise BrokenImage("The PNG image has more compressed metadata than a picture needs.")
    elif content_type == "image/tiff":
        _check_tiff(data)
    elif content_type == "image/webp":  # the plugin makes two canvases before it says how large they are
        ahead = check_pixels(*_webp_size(data), max_pixels)
    elif content_type in ("image/heic", "image/heif", "image/avif"):  # a crop (clap) hides what is decoded
        sizes = (struct.unpack_from(">II", data, box.end()) for box in _SPATIAL_EXTENTS.finditer(data))
        ahead = max((check_pixels(width, height, max_pixels) for width, height in sizes), default=0)
    return buffered, ahead


def check_pixels(width: int, height: int, max_pixels: int) -> int:
    if width * height > max_pixels:
        limit = f"the {max_pixels} that the setting upload.max_pixels allows"
        raise TooManyPixels(f"The picture has {width} x {height} pixels, more than {limit}.")
    return width * height


def _jpeg_is_buffered(data: bytes, max_pixels: int) -> bool:
    """Whether libjpeg must hold all coefficients, 6 bytes a pixel: a JPEG that is progressive or of several scans."""
    at, markers, scans, pixels, frame, components = 2, 0, 0, 0, 0, 0
    while marker := _JPEG_MARKER.search(data, at):
        kind, start = marker[1][0], marker.end()
        at = start + int.from_bytes(data[start : start + 2], "big")
        markers += 1
        if kind == 0xD9:  # end of the image; what follows is no part of it
            return True
        if markers > MAX_JPEG_MARKERS or (start > MAX_JPEG_HEADER and not scans):
            raise BrokenImage("The JPEG image has more metadata than a picture needs.")
        if kind in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 3)
            pixels = check_pixels(width, height, max_pixels)
            frame, components = kind, data[start + 7]
        elif kind in range(0xC0, 0xD0) and kind not in (0xC4, 0xCC):
            raise BrokenImage("The image is of a kind of JPEG (lossless or hierarchical) that is not read here.")
        elif kind == 0xDA:
            scans += 1
            if scans > MAX_SCANS or (scans > 16 and scans * pixels > MAX_SCANS * BIG_PIXELS):
                raise BrokenImage("The JPEG image has more scans than a picture of its size needs.")
            if scans == 1 and frame not in (0xC2, 0xCA) and data[start + 2] == components:
                # Huffman codes need 2 bits for each block of 8 x 8. libjpeg would paint grey what is missing.
                if frame != 0xC9 and (len(data) - start) * 256 < pixels:
                    raise BrokenImage("The JPEG image is far shorter than the size in its header needs.")
                if data.rfind(b"\xff\xd9", at) >= 0:
                    return False
                break
    raise BrokenImage("The JPEG image is cut off before its end.")  # libjpeg may not ask when it has the last row


def _check_tiff(data: bytes) -> None:
    """Refuse tags of more numbers than strips of a picture need."""
    order, large = "<" if data[:2] == b"II" else ">", data[2] == 43
    (start,) = struct.unpack_from(order + ("Q" if large else "I"), data, 8 if large else 4)
    (count,) = struct.unpack_from(order + ("Q" if large else "H"), data, start)
    entry = struct.Struct(order + ("HHQ8x" if large else "HHI4x"))
    for index in range(min(count, MAX_TIFF_ENTRIES)):
        _, kind, numbers = entry.unpack_from(data, start + (8 if large else 2) + index * entry.size)
        if numbers > MAX_TIFF_NUMBERS and kind not in (1, 2, 7):  # bytes and text stay one object
            raise BrokenImage(f"The TIFF image has a tag of more than {MAX_TIFF_NUMBERS} numbers.")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header, as in RFC 9649."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    bits = int.from_bytes(data[21:25] if data[12:16] == b"VP8L" else data[26:30], "little")
    if data[12:16] == b"VP8L":
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return bits & 0x3FFF, bits >> 16 & 0x3FFF
