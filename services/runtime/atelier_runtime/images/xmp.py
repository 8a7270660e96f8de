"""XMP packets: what would be untrue of the new file is changed or cut out; every other byte is kept.

A packet is XML from anyone. It is read once, by expat, without building a tree; document types, and with them
entities, are refused.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from atelier_runtime.images.picture import ImageFault

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_NOTE = "http://ns.adobe.com/xmp/note/"
_GAIN_MAP = "http://ns.adobe.com/hdr-gain-map/1.0/"
_APPLE_GAIN_MAP = "http://ns.apple.com/HDRGainMap/1.0/"
_CAMERA = "http://ns.google.com/photos/1.0/camera/"
_CONTAINER = "http://ns.google.com/photos/1.0/container/"
_ITEM = "http://ns.google.com/photos/1.0/container/item/"
_OPLUS_CAMERA = "http://ns.oplus.com/photos/1.0/camera/"
_XIAOMI_CAMERA = "http://ns.xiaomi.com/photos/1.0/camera/"
_DYNAMIC_DEPTH = "http://ns.google.com/photos/dd/1.0/"

_PROVENANCE = ("http://purl.org/dc/terms/", "provenance")
_REGION_NAMESPACES = frozenset(
    {"http://www.metadataworkinggroup.com/schemas/regions/", "http://ns.microsoft.com/photo/1.2/"}
)

USUAL_PREFIXES = {
    "rdf": _RDF,
    "tiff": _TIFF,
    "exif": _EXIF,
    "xmp": _XMP,
    "xmpNote": _NOTE,
    "hdrgm": _GAIN_MAP,
    "HDRGainMap": _APPLE_GAIN_MAP,
    "GCamera": _CAMERA,
    "Camera": _CAMERA,
    "Container": _CONTAINER,
    "Item": _ITEM,
    "OpCamera": _OPLUS_CAMERA,
    "MiCamera": _XIAOMI_CAMERA,
}
"""For packets that do not declare them, which readers that search for text accept too."""
GAIN_MAP, VIDEO, FURTHER_IMAGES = "gain map", "video of a motion photo", "further images"
_ANNOUNCING_NAMESPACES = {
    _GAIN_MAP: GAIN_MAP,
    _APPLE_GAIN_MAP: GAIN_MAP,
    _OPLUS_CAMERA: VIDEO,
    _XIAOMI_CAMERA: FURTHER_IMAGES,
}
_DECLARATION = "xmlns"
_VIDEO_PROPERTIES = ("MotionPhoto", "MicroVideo")
_SIZE_PROPERTIES = ((_EXIF, "Pixel%sDimension", "XY"), (_TIFF, "Image%s", ("Width", "Length")))

_WRAPPER = re.compile(rb"\s*<\?xpacket [^>]*\?>\s*")
_SHORT_PACKET = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="%s"/></rdf:RDF></x:xmpmeta>'
    b'<?xpacket end="w"?>'
)
_MAX_DEPTH = 100
_MAX_NAMESPACES = 200
_MAX_NAMES = 100_000  # of elements and attributes, read in a second; editors write some ten thousand at most
_ATTRIBUTE = re.compile(rb"""\s+([^\s=]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_GUID = re.compile(rb"[0-9A-Fa-f]{32}")


@dataclass(frozen=True)
class Cleaned:
    """A packet without what would be untrue of the new file, and what it said.

    `announced`: what it said was in its file besides the image. `extended`: the GUID of its extension.
    """

    packet: bytes
    orientation: int | None
    announced: frozenset[str]
    extended: bytes | None


def clean(packet: bytes) -> Cleaned:
    """Set the orientation to 1, and cut out thumbnails and what announces other contents of the old file.

    Raises `ImageFault` if the packet cannot be read.
    """
    orientation: int | None = None
    extended: bytes | None = None
    announced = set[str]()

    def decide(uri: str, name: str, text: bytes) -> bytes | None:
        nonlocal orientation, extended
        if (uri, name) == (_TIFF, "Orientation"):
            value = text.strip()
            if orientation is None and value in b"12345678" and len(value) == 1:
                orientation = int(value)
            return b"1"
        if (uri, name) == _PROVENANCE:
            return None if b"c2pa" in text else text
        if (uri, name) == (_NOTE, "HasExtendedXMP"):
            extended = text.strip() if _GUID.fullmatch(text.strip()) else b""
            return text
        if (uri, name) != (_XMP, "Thumbnails"):
            announced.update(_announced_by(uri, name, text))
        return None

    cleaned = _edited(_in_utf_8(packet), _is_untrue, decide)
    return Cleaned(cleaned, orientation, frozenset(announced), extended)


def with_size(packet: bytes, width: int, height: int) -> bytes:
    """Return the packet with the image's size wherever it has one. Raises `ImageFault`."""
    sizes = {
        (uri, template % name): str(side).encode()
        for uri, template, names in _SIZE_PROPERTIES
        for name, side in zip(names, (width, height), strict=True)
    }
    return _edited(
        packet, lambda uri, name: (uri, name) in sizes, lambda uri, name, text: sizes.get((uri, name), text)
    )


def without_extension(packet: bytes) -> bytes:
    """Return the packet without the note that it has an extension. Raises `ImageFault`."""
    return _edited(packet, _is_note, lambda uri, name, text: None)


def without_regions(packet: bytes) -> bytes:
    """Return the packet without the places of faces, which are others in a turned image.

    Raises `ImageFault`.
    """
    return _edited(packet, lambda uri, name: uri in _REGION_NAMESPACES, lambda uri, name, text: None)


def with_extension(packet: bytes, extension: bytes) -> bytes:
    """Return the packet with a note of this extension in place of the former one. Raises `ImageFault`."""
    return _edited(packet, _is_note, lambda uri, name, text: guid(extension))


def guid(extension: bytes) -> bytes:
    """Return what a packet names its extension by: 32 hexadecimal digits."""
    return hashlib.md5(extension, usedforsecurity=False).hexdigest().upper().encode()


def split(packet: bytes) -> tuple[bytes, bytes]:
    """Return a packet as a short one and its extension, for JPEG files, whose packets are limited."""
    extension = _WRAPPER.sub(b"", packet)
    return _SHORT_PACKET % guid(extension), extension


def merge(packet: bytes, extension: bytes) -> bytes:
    """Return one packet with the properties of both, for files without a limit of its size.

    Raises `ImageFault` if either cannot be read.
    """
    packet = without_extension(packet)
    descriptions = []
    for element in _elements(extension, lambda uri, name: True):
        if element.parent == (_RDF, "RDF"):
            missing = {p: u for p, u in element.outer.items() if p not in element.declared}
            declarations = "".join(f" xmlns{':' + p if p else ''}={quoteattr(u)}" for p, u in missing.items())
            tag_end = element.start + 1 + element.tag_bytes
            descriptions.append(
                extension[element.start : tag_end] + declarations.encode() + extension[tag_end : element.end]
            )
    roots = [e.text for e in _elements(packet, lambda uri, name: (uri, name) == (_RDF, "RDF")) if e.text]
    if not roots:
        raise ImageFault("XMP without an element that descriptions could be added to")
    place = roots[-1][1]
    return packet[:place] + b"".join(descriptions) + packet[place:]


def with_description(packet: bytes, description: str, replaced: Collection[tuple[str, str]]) -> bytes:
    """Return the packet, in UTF-8, with one more `rdf:Description`, without the properties that it replaces.

    `replaced`: their namespaces and names. Raises `ImageFault` if the packet cannot be read or has no place
    for it.
    """
    packet = _edited(
        _in_utf_8(packet), lambda uri, name: (uri, name) in replaced, lambda uri, name, text: None
    )
    roots = [e.text for e in _elements(packet, lambda uri, name: (uri, name) == (_RDF, "RDF")) if e.text]
    if not roots:
        raise ImageFault("XMP without an element that descriptions could be added to")
    place = roots[-1][1]
    # A packet may declare another encoding; ASCII is a part of all that expat reads.
    as_ascii = packet.lstrip().startswith(b"<?xml ")
    added = description.encode("ascii", "xmlcharrefreplace") if as_ascii else description.encode()
    return packet[:place] + added + packet[place:]


def _is_untrue(uri: str, name: str) -> bool:
    return (
        uri in _ANNOUNCING_NAMESPACES
        or uri.startswith((_DYNAMIC_DEPTH, _CONTAINER))
        or (uri == _CAMERA and name.startswith(_VIDEO_PROPERTIES))
        or (uri, name)
        in ((_TIFF, "Orientation"), (_NOTE, "HasExtendedXMP"), (_XMP, "Thumbnails"), _PROVENANCE)
    )


def _is_note(uri: str, name: str) -> bool:
    return (uri, name) == (_NOTE, "HasExtendedXMP")


def _announced_by(uri: str, name: str, text: bytes) -> Iterator[str]:
    if name == _DECLARATION:
        return
    if uri == _CAMERA and name.startswith(_VIDEO_PROPERTIES):
        if name in _VIDEO_PROPERTIES and text.strip() != b"0":
            yield VIDEO
    elif uri in _ANNOUNCING_NAMESPACES:
        yield _ANNOUNCING_NAMESPACES[uri]
    else:
        found = [kind for word, kind in ((b"GainMap", GAIN_MAP), (b"MotionPhoto", VIDEO)) if word in text]
        if found or uri.startswith(_DYNAMIC_DEPTH):
            yield from found or [FURTHER_IMAGES]


def _in_utf_8(packet: bytes) -> bytes:
    if not packet.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return packet
    try:
        return packet.decode("utf-16").encode()
    except UnicodeError:
        raise ImageFault("XMP that is not UTF-16") from None


@dataclass
class _Element:
    """Where an element is in its packet. `text`: its content, None if its tag is empty."""

    uri: str
    name: str
    start: int
    tag_bytes: int
    parent: tuple[str, str] | None
    outer: Mapping[str, str]
    declared: Mapping[str, str]
    end: int = 0
    text: tuple[int, int] | None = None
    has_children: bool = False
    attributes: list[_Attribute] = field(default_factory=list)


@dataclass(frozen=True)
class _Attribute:
    uri: str
    name: str
    start: int
    end: int
    text: tuple[int, int]


Wanted = Callable[[str, str], bool]


def _edited(packet: bytes, wanted: Wanted, decide: Callable[[str, str, bytes], bytes | None]) -> bytes:
    """Return the packet with the text that `decide` returns for each wanted property; None: cut out."""
    edits: list[tuple[int, int, bytes]] = []
    for element in _elements(packet, wanted):
        properties: list[tuple[str, str, int, int, tuple[int, int] | None]] = []
        if wanted(element.uri, element.name):
            text = None if element.has_children else element.text
            properties.append((element.uri, element.name, element.start, element.end, text))
        properties += [(a.uri, a.name, a.start, a.end, a.text) for a in element.attributes]
        for uri, name, start, end, text in properties:
            old = packet[slice(*text)] if text else packet[start:end]
            new = decide(uri, name, old)
            if new is None:
                edits.append((start, end, b""))
            elif text and new != old:
                edits.append((*text, new))
    pieces, position = [], 0
    for start, end, new in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
        if start >= position:  # or inside of what has been cut out
            pieces += [packet[position:start], new]
            position = end
    return b"".join([*pieces, packet[position:]])


def _elements(packet: bytes, wanted: Wanted) -> list[_Element]:
    """Return the elements that are wanted or have a wanted attribute. Raises `ImageFault`."""
    found: list[_Element] = []
    open_elements: list[_Element] = []
    count = 0
    parser = expat.ParserCreate()
    parser.ordered_attributes = True

    def start(tag: str, attributes: list[str]) -> None:
        nonlocal count
        count += 1
        parent = open_elements[-1] if open_elements else None
        outer: Mapping[str, str] = {**parent.outer, **parent.declared} if parent else {}
        if parent and not parent.declared:
            outer = parent.outer
        names, values = attributes[::2], attributes[1::2]
        count += len(names)
        declared = {
            name[6:]: value
            for name, value in zip(names, values, strict=True)
            if name.partition(":")[0] == _DECLARATION
        }
        if (
            count > _MAX_NAMES
            or len(open_elements) >= _MAX_DEPTH
            or len(outer) + len(declared) > _MAX_NAMESPACES
        ):
            raise ImageFault("XMP with too many elements or namespaces, or nested too deeply")

        def resolved(name: str) -> tuple[str, str]:
            """Return the namespace of a name, and the rest of it; of a declaration, what it declares."""
            prefix, _, local = name.rpartition(":")
            if prefix == _DECLARATION:
                return declared[local], prefix
            uri = declared.get(prefix) or outer.get(prefix) or USUAL_PREFIXES.get(prefix, "")
            return uri, local

        offset = parser.CurrentByteIndex
        above = (parent.uri, parent.name) if parent else None
        element = _Element(*resolved(tag), offset, len(tag.encode()), above, outer, declared)
        if parent:
            parent.has_children = True
        open_elements.append(element)
        wanted_names = {name for name in names if name != _DECLARATION and wanted(*resolved(name))}
        if wanted(element.uri, element.name) or wanted_names:
            found.append(element)
            place = offset + 1 + element.tag_bytes
            while match := _ATTRIBUTE.match(packet, place):
                place = match.end()
                if match[1].decode("utf-8", "replace") in wanted_names:
                    text = match.span(2) if match[2] is not None else match.span(3)
                    uri, local = resolved(match[1].decode())
                    element.attributes.append(_Attribute(uri, local, match.start(), place, text))
            close = packet.find(b">", place)
            if packet[close - 1 : close] != b"/":
                element.text = (close + 1, close + 1)

    def end(tag: str) -> None:
        element, offset = open_elements.pop(), parser.CurrentByteIndex
        if packet.startswith(b"</", offset) and element.text:
            element.text = (element.text[0], offset)
            element.end = packet.find(b">", offset) + 1
        else:  # an empty tag's end
            element.end = offset

    def refuse(*declaration: object) -> None:
        raise ImageFault("XMP with a document type")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(packet.rstrip(b"\0 \t\r\n"), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, ImageFault):
            raise
        raise ImageFault("XMP that is not well-formed XML") from None
    return found
