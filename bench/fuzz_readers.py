"""Gives broken files to what reads pictures and their metadata, guided by coverage, with atheris.

    python -m pip install atheris          # not a dependency of this project
    python -m bench.fuzz_readers pictures -max_total_time=300

The targets: `pictures` decodes a file and encodes it again in every format, as the restorer does; `marks`
finds what a file says of itself, content credentials included, as the gateway does; `texts` reads infotexts,
EXIF and XMP that are in no file. It begins with pictures that it makes itself. Further arguments are
libFuzzer's.

Whatever a reader raises besides `InvalidRequest`, its documented refusal, is a finding, and so is an input
that takes more than 2 s of one core. The first of each kind is printed and written into `.run/fuzz`, and the
run goes on; what ends the process, libFuzzer writes into the current folder.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import json
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

_FOUND = Path(".run/fuzz")
_MAX_PIXELS = 2**18
_SLOW_S = 2.0
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_INFOTEXT = "a fox, (red:1.2)\nNegative prompt: blue\nSteps: 4, Sampler: Euler a, Seed: 3, Size: 64x64"
_DICTIONARY = (
    *("IHDR", "IDAT", "IEND", "PLTE", "tRNS", "iCCP", "eXIf", "tEXt", "zTXt", "iTXt", "caBX", "pHYs", "acTL"),
    *("RIFF", "WEBP", "VP8X", "VP8L", "VP8 ", "ALPH", "EXIF", "XMP ", "ICCP", "C2PA", "ANIM"),
    *("Exif\\x00\\x00", "II*\\x00", "MM\\x00*", "UNICODE\\x00", "8BIM", "Photoshop 3.0\\x00"),
    *(
        "http://ns.adobe.com/xap/1.0/\\x00",
        "http://ns.adobe.com/xmp/extension/\\x00",
        "xmpNote:HasExtendedXMP",
    ),
    *("XML:com.adobe.xmp", "Raw profile type exif", "parameters", "<!DOCTYPE", "<rdf:Description", "xmlns:"),
    *(
        "Steps: ",
        "Negative prompt: ",
        "\\xff\\xd8\\xff",
        "\\xff\\xda",
        "\\xff\\xe1",
        "\\xff\\xed",
        "\\xff\\xc2",
    ),
)


def _mutated(atheris: Any, data: bytes, max_size: int, seed: int) -> bytes:
    """Change some bytes; of a PNG the checksums are then made right, or nothing would get past them."""
    changed = bytes(atheris.Mutate(data, max_size))
    return with_checksums(changed) if seed % 8 else changed


def with_checksums(file: bytes) -> bytes:
    """Return a PNG with the checksum of each whole chunk made right; others as they are."""
    if not file.startswith(_SIGNATURE):
        return file
    fixed, start = bytearray(file), len(_SIGNATURE)
    while start + 12 <= len(file):
        end = start + 8 + int.from_bytes(file[start : start + 4], "big")
        if end + 4 > len(file):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(file[start + 4 : end]))
        start = end + 4
    return bytes(fixed)


def _targets() -> dict[str, Callable[[bytes], None]]:
    """Import what is tested, which atheris instruments, and return a function for each target."""
    from atelier_gateway.credentials import summary_of
    from atelier_runtime import images
    from atelier_runtime.errors import InvalidRequest
    from atelier_runtime.images import metadata, photoshop, text, xmp
    from atelier_runtime.images.picture import ImageFault
    from atelier_runtime.recipes import (
        DRAWN,
        Marks,
        describe_marks,
        infotext,
        mark,
        packet,
        read_marks,
        user_comment,
    )
    from atelier_runtime.recipes.removing import without_own_marks

    marks = Marks({"kind": "restoration"}, _INFOTEXT, DRAWN, builds_on=True)

    def pictures(file: bytes) -> None:
        images.displayed_size(file)
        try:
            picture = images.decode(file, max_pixels=_MAX_PIXELS, deep=True)
        except InvalidRequest:
            return
        picture.eight_bit()
        for image_format in images.FORMATS:
            for written in (picture, without_own_marks(picture)):
                images.losses(written, image_format, 80)
                encoded = images.encode(written, image_format, 80)
                marked = mark(encoded, image_format, marks)
                again = images.decode(marked, max_pixels=_MAX_PIXELS, deep=True)
                if (again.width, again.height) != (picture.width, picture.height):
                    raise AssertionError(f"{image_format}: another size")
                recipe = read_marks(marked).recipe or {}
                if recipe.get("kind") != "restoration":
                    raise AssertionError(f"{image_format}: what was written is not found again")

    def of_file(file: bytes) -> None:
        try:
            found = read_marks(file)
        except InvalidRequest:
            return
        described = describe_marks(found)
        if found.has_credentials:
            described["credentials"] = summary_of(file, found.format)
        json.dumps(described, allow_nan=False)

    def texts(data: bytes) -> None:
        infotext.read(data.decode("utf-8", "replace"))
        packet.read(data)
        packet.with_properties(data, recipe={"a": 1}, infotext=_INFOTEXT, source_type=DRAWN)
        user_comment.read(data)
        metadata.normalize_orientation(data)
        metadata.without_subject(data)
        metadata.with_size(data, 30, 20)
        photoshop.kept(data, turned=True)
        photoshop.from_profile(data)
        for kind in text.KINDS:
            text.content(kind, data)
            text.raw_profile(kind, data)
            text.as_comment(kind, data)
        for change in (xmp.clean, xmp.without_regions, xmp.without_extension, xmp.split):
            try:
                change(data)
            except ImageFault:
                continue

    return {"pictures": pictures, "marks": of_file, "texts": texts}


class _Findings:
    """Runs a target; what is found is reported once for each place in the code."""

    def __init__(self, target: Callable[[bytes], None]) -> None:
        self._target = target
        self.places: set[str] = set()

    def __call__(self, data: bytes) -> None:
        start = time.thread_time()
        try:
            self._target(data)
        except Exception as error:  # whatever it is, it is what we are looking for
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self._report(data, f"{type(error).__name__} in {frame.filename}:{frame.lineno}", error)
        seconds = time.thread_time() - start
        if seconds > _SLOW_S:
            self._report(data, f"slow: some {round(seconds)} s", None)

    def _report(self, data: bytes, place: str, error: Exception | None) -> None:
        if place in self.places:
            return
        self.places.add(place)
        _FOUND.mkdir(parents=True, exist_ok=True)
        path = _FOUND / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        print(f"FOUND {place}, by {path} ({len(data)} bytes)", file=sys.stderr)
        if error is not None:
            traceback.print_exception(error)


def seeds(target: str) -> Iterator[bytes]:
    """Make what a target begins with."""
    yield from _texts() if target == "texts" else _files()


def _files() -> Iterator[bytes]:
    from atelier_runtime import images
    from atelier_runtime.recipes import DRAWN, Marks, mark

    y, x = np.mgrid[0:12, 0:16]
    rgb = np.dstack([16 * x, 20 * y, 8 * x + 9 * y]).clip(0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a description", 72.0
    exif[0x8769] = {0x9286: b"UNICODE\0" + _INFOTEXT.encode("utf-16-be"), 0x9214: (4, 4, 2, 2)}
    block = exif.tobytes()
    packet = next(text for text in _texts() if text.startswith(b"<?xpacket"))
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        yield _saved(Image.fromarray(rgb).convert(mode), "PNG", exif=block, dpi=(72, 80))
    texts = PngInfo()
    texts.add_text("parameters", _INFOTEXT)
    texts.add_text("workflow", '{"nodes": []}', zip=True)
    texts.add_itxt("XML:com.adobe.xmp", packet.decode())
    texts.add_itxt("Comment", "schön", zip=True)
    yield _saved(Image.fromarray(rgb), "PNG", pnginfo=texts, icc_profile=b"a profile" * 20)
    common: dict[str, Any] = {"exif": block, "xmp": packet, "icc_profile": b"a profile" * 20}
    options: dict[str, Any]
    for options in ({"comment": _INFOTEXT}, {"progressive": True, "dpi": (90, 80)}, {"subsampling": 2}):
        yield _saved(Image.fromarray(rgb), "JPEG", **common, **options)
    yield _saved(Image.fromarray(rgb).convert("L"), "JPEG", exif=block)
    for options in ({"lossless": True}, {"quality": 60}):
        yield _saved(Image.fromarray(rgb).convert("RGBA"), "WEBP", **common, **options)
    marks = Marks({"kind": "drawing"}, _INFOTEXT, DRAWN)
    for image_format in images.FORMATS:
        yield mark(images.encode(images.Picture(rgb), image_format, 80), image_format, marks)
    yield from (_signed(rgb, images.encode) if importlib.util.find_spec("c2pa") else ())


def _signed(rgb: Any, encode: Callable[..., bytes]) -> Iterator[bytes]:
    from atelier_gateway.core.signing import Claim
    from atelier_gateway.credentials import Credentials
    from atelier_runtime.images import FORMATS, Picture
    from atelier_runtime.recipes import DRAWN
    from tests.certificates import make_chain

    with tempfile.TemporaryDirectory() as folder:
        chain = make_chain(Path(folder))
        credentials = Credentials(chain.certificate, chain.key)
        for image_format in FORMATS:
            yield credentials.sign(encode(Picture(rgb), image_format, 80), image_format, Claim(DRAWN))


def _texts() -> Iterator[bytes]:
    from atelier_runtime.recipes import DRAWN, packet, user_comment

    yield _INFOTEXT.encode()
    yield user_comment.write(_INFOTEXT)
    yield packet.with_properties(None, recipe={"kind": "drawing"}, infotext=_INFOTEXT, source_type=DRAWN)
    yield (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
        b'xmlns:dc="http://purl.org/dc/elements/1.1/" tiff:Orientation="6" tiff:ImageWidth="16" '
        b'xmpNote:HasExtendedXMP="0123456789ABCDEF0123456789ABCDEF"><dc:description><rdf:Alt>'
        b'<rdf:li xml:lang="x-default">a fox</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF>'
        b'</x:xmpmeta><?xpacket end="w"?>'
    )
    yield b"8BIM\x04\x04\0\0\0\0\0\x05hello\0" + b"8BIM\x03\xed\0\0\0\0\0\x02ab"
    yield b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n       4\n49492a00\n")


def _saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def main() -> int:
    """Run one target until libFuzzer ends."""
    if len(sys.argv) < 2 or sys.argv[1] not in ("pictures", "marks", "texts"):
        print(__doc__, file=sys.stderr)
        return 2
    name = sys.argv[1]
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["atelier_runtime.images", "atelier_runtime.recipes"]):
        target = _targets()[name]
    warnings.simplefilter("ignore")  # Pillow has one for every odd tag of a file
    findings = _Findings(target)

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(name)):
            Path(folder, str(number)).write_bytes(seed)
        words = Path(folder, "words.txt")
        words.write_text("".join(f'"{word}"\n' for word in _DICTIONARY), encoding="ascii")
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        arguments = [sys.argv[0], str(corpus), folder, f"-dict={words}", "-max_len=8192", *sys.argv[2:]]
        atheris.Setup(arguments, findings, custom_mutator=partial(_mutated, atheris))
        atheris.Fuzz()  # ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
