"""Our properties in an XMP packet: the recipe, a text that fits nowhere else, and IPTC's source type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from atelier_runtime.images import xmp
from atelier_runtime.images.picture import ImageFault
from atelier_runtime.recipes.whole import whole_json

NAMESPACE = "urn:atelier:recipe/1.0/"
IPTC_EXTENSION = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
RECIPE = (NAMESPACE, "Recipe")
INFOTEXT = (NAMESPACE, "Infotext")
SOURCE_TYPE = (IPTC_EXTENSION, "DigitalSourceType")

_OURS = frozenset({RECIPE, INFOTEXT, SOURCE_TYPE})

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DESCRIPTION = (_RDF, "Description")
_CONTAINERS = frozenset({(_RDF, "RDF"), _DESCRIPTION, ("adobe:ns:meta/", "xmpmeta")})
_ITEM = (_RDF, "li")
_SEPARATOR = "\n"  # neither in a name nor in a namespace
_HEAD = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
_EMPTY = f'{_HEAD}<rdf:RDF xmlns:rdf="{_RDF}"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'.encode()
_START = (
    f'<rdf:Description rdf:about="" xmlns:rdf="{_RDF}" xmlns:atelier="{NAMESPACE}" '
    f'xmlns:Iptc4xmpExt="{IPTC_EXTENSION}">'
)
_END = "</rdf:Description>"
_NOT_IN_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")

_PADDING = b"\0 \t\r\n"

_MAX_DEPTH = 100
_MAX_ELEMENTS = 100_000
_MAX_TEXT_CHARS = 2**20
_MAX_PROPERTIES = 500
_MAX_PREFIXES = 200
_MAX_JSON_DEPTH = 64


@dataclass
class Found:
    """What a packet says. `texts`: every property that is a text, by the end of its name."""

    recipe: dict[str, Any] | None = None
    infotext: str | None = None
    source_type: str | None = None
    texts: dict[str, str] = field(default_factory=dict)
    is_readable: bool = True


def with_properties(
    packet: bytes | None,
    *,
    recipe: Mapping[str, Any] | None = None,
    infotext: str | None = None,
    source_type: str | None = None,
) -> bytes:
    """Return a packet with these properties in place of its own of the same names; None: it has none.

    A packet that cannot be read, or without a place for properties, is replaced.
    """
    values = {RECIPE: recipe, INFOTEXT: infotext, SOURCE_TYPE: source_type}
    written = {name: value for name, value in values.items() if value is not None}
    if not written:
        return packet if packet is not None else _EMPTY
    elements = "".join(_element(name, value) for name, value in written.items())
    description = f"{_START}{elements}{_END}"
    if packet is not None:
        try:
            changed = xmp.with_description(packet, description, written.keys())
            changed = changed.replace(f"{_START}{_END}".encode(), b"")  # where the earlier ones were
            return _with_declarations(changed)
        except ImageFault:
            pass
    return xmp.with_description(_EMPTY, description, ())


def _with_declarations(packet: bytes) -> bytes:
    """Return a packet, in UTF-8, in which every prefix is declared: most readers accept no other.

    Raises `ImageFault` if its names cannot be resolved then either.
    """
    if _is_resolvable(packet):
        return packet
    prefixes: dict[str, None] = {}
    root: tuple[int, Collection[str]] | None = None
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal root
        prefixes.update((name.partition(":")[0], None) for name in (tag, *attributes) if ":" in name)
        if len(prefixes) > _MAX_PREFIXES:
            raise ImageFault("XMP with too many namespaces")
        if root is None:
            root = parser.CurrentByteIndex + 1 + len(tag.encode()), attributes

    parser.StartElementHandler = start
    try:
        parser.Parse(packet.rstrip(_PADDING), True)
    except (expat.ExpatError, LookupError):
        root = None
    if root is None:
        raise ImageFault("XMP that is not well-formed XML")
    place, declared = root
    missing = [p for p in prefixes if p not in ("xml", "xmlns") and f"xmlns:{p}" not in declared]
    uris = {prefix: xmp.USUAL_PREFIXES.get(prefix, f"urn:undeclared:{prefix}") for prefix in missing}
    added = "".join(f" xmlns:{prefix}={quoteattr(uri)}" for prefix, uri in uris.items())
    changed = packet[:place] + added.encode() + packet[place:]
    if not _is_resolvable(changed):
        raise ImageFault("XMP with names that cannot be resolved")
    return changed


def _is_resolvable(packet: bytes) -> bool:
    """Return whether a packet is well-formed also for a reader that resolves prefixes.

    It has no document type: `xmp` refuses those.
    """
    try:
        expat.ParserCreate(namespace_separator=_SEPARATOR).Parse(packet.rstrip(_PADDING), True)
    except (expat.ExpatError, ValueError, LookupError):
        return False
    return True


def without(packet: bytes, names: Collection[tuple[str, str]]) -> bytes | None:
    """Return a packet without properties of these names; None if it is one of ours and nothing else is in it.

    Raises `ImageFault` if it cannot be read.
    """
    changed = xmp.with_description(packet, "", names).replace(f"{_START}{_END}".encode(), b"")
    is_ours = changed.startswith(_HEAD.encode()) and not read(changed).texts
    return None if is_ours else changed


def _element(name: tuple[str, str], value: object) -> str:
    tag = f"Iptc4xmpExt:{name[1]}" if name == SOURCE_TYPE else f"atelier:{name[1]}"
    text = str(value)
    if name != SOURCE_TYPE:  # as JSON: XML can contain neither all characters nor, unchanged, all line breaks
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text = _NOT_IN_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return f"<{tag}>{escape(text)}</{tag}>"


def read(packet: bytes) -> Found:
    """Return what a packet says. Anyone may have written it; document types are refused."""
    properties: dict[tuple[str, str], str] = {}
    open_names: list[tuple[str, str]] = []
    pieces: list[str] = []
    state = {"elements": 0, "chars": 0}
    parser = expat.ParserCreate(namespace_separator=_SEPARATOR)
    parser.buffer_text = True

    def keep(name: tuple[str, str], text: str) -> None:
        text = text.strip()
        if text and (len(properties) < _MAX_PROPERTIES or name in _OURS):
            properties.setdefault(name, text)

    def start(tag: str, attributes: dict[str, str]) -> None:
        state["elements"] += 1 + len(attributes)
        if state["elements"] > _MAX_ELEMENTS or len(open_names) >= _MAX_DEPTH:
            raise ImageFault("XMP with too many elements, or nested too deeply")
        name = _name(tag)
        open_names.append(name)
        pieces.clear()
        for key, value in attributes.items():
            if _name(key) == (_RDF, "resource"):
                keep(name, value)
            elif name == _DESCRIPTION and _name(key)[0] != _RDF:
                keep(_name(key), value)

    def text(data: str) -> None:
        state["chars"] += len(data)
        if state["chars"] > 4 * _MAX_TEXT_CHARS:
            raise ImageFault("XMP with too much text")
        pieces.append(data)

    def end(tag: str) -> None:
        name = open_names.pop()
        content = "".join(pieces)
        pieces.clear()
        owner = next((n for n in reversed(open_names) if n[0] != _RDF), None) if name == _ITEM else name
        if owner is not None and name not in _CONTAINERS and owner not in _CONTAINERS:
            keep(owner, content)

    def refuse(*declaration: object) -> None:
        raise ImageFault("XMP with a document type")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    found = Found()
    try:
        parser.Parse(packet.rstrip(_PADDING), True)
    except (expat.ExpatError, ValueError, LookupError):  # ImageFault is a ValueError
        found.is_readable = False
        return found
    found.recipe = as_object(properties.pop(RECIPE, None))
    written = properties.pop(INFOTEXT, None)
    if written is not None and isinstance(decoded := as_json(written), str):
        found.infotext = decoded
    found.source_type = properties.get(SOURCE_TYPE)
    found.texts = {f"XMP:{local}": value for (_, local), value in properties.items()}
    return found


def as_json(text: str) -> Any:
    """Return what a JSON text says; None if whoever writes it again could not, or if it is none.

    That is: nested too deeply, or with a number that is too large. Halves of surrogate pairs are replaced.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    level = [value]
    for _ in range(_MAX_JSON_DEPTH):
        level = [inner for each in level for inner in _parts(each)]
        if not level:
            return whole_json(value)
    return None


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.20} is too large for a number")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def as_object(text: str | None) -> dict[str, Any] | None:
    """Return a JSON object; None if a text is none."""
    value = None if text is None else as_json(text)
    return value if isinstance(value, dict) else None


def _name(tag: str) -> tuple[str, str]:
    uri, _, local = tag.rpartition(_SEPARATOR)
    return uri, local
