"""XMP packets: a stranger's costs time and memory by its size alone."""

from __future__ import annotations

import tracemalloc
from xml.etree import ElementTree

import pytest
from metadata_files import SPACES, xmp

from diffedit_cli.images import xmp_packets

GAIN = SPACES["hdrgm"].encode()


def cleaned(packet: bytes) -> bytes:
    return xmp_packets.clean(packet, (40, 24), False)[0]


def test_namespaces_declared_at_each_level_take_little_memory() -> None:
    """Each level had a copy of all of those above: 52 KB of a PNG took 5 GB."""
    depth = 3000
    packet = b"".join(b'<a xmlns:q%d="u">' % level for level in range(depth)) + b"</a>" * depth
    tracemalloc.start()
    assert cleaned(packet) == packet
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**23


def test_a_prefix_means_what_the_innermost_element_says() -> None:
    packet = (
        b'<a xmlns:p="other"><b xmlns:p="%s"><p:c/><d xmlns:p="third"><p:e/></d><p:f p:g="1"/></b><p:h p:i="1"/></a>'
    )
    kept = b'<a xmlns:p="other"><b><d xmlns:p="third"><p:e/></d></b><p:h p:i="1"/></a>'
    assert cleaned(packet % GAIN) == kept


def test_prefixes_that_are_not_declared_are_the_usual_ones() -> None:
    assert cleaned(b'<a><hdrgm:b/><c xmlns:hdrgm="other"><hdrgm:d/></c><hdrgm:e/></a>') == (
        b'<a><c xmlns:hdrgm="other"><hdrgm:d/></c></a>'
    )


@pytest.mark.parametrize("packet", [b"<a>" + b"<b/>" * 20 + b"</a>", b"<a " + b"%s" + b"/>"], ids=["elements", "names"])
def test_of_more_than_so_many_names_none_is_read(packet: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    packet = packet.replace(b"%s", b" ".join(b'n%d="1"' % number for number in range(20)))
    monkeypatch.setattr(xmp_packets, "MOST", 21)
    assert cleaned(packet) == packet
    monkeypatch.setattr(xmp_packets, "MOST", 20)
    with pytest.raises(ValueError, match="more than 20 elements and attributes"):
        cleaned(packet)


def test_what_the_description_is_about_is_read_once() -> None:
    """Each mention in a comment was read to the comment's end: 300 KB took a minute."""
    mentions = b"<!--" + b"<rdf:Description" * 20_000 + b' rdf:about="comment" -->'
    packet = (
        xmp().replace(b'rdf:about=""', b"rdf:about='it is \"so\"'").replace(b"<x:xmpmeta", mentions + b"<x:xmpmeta", 1)
    )
    marked = xmp_packets.mark_generated(packet)
    ElementTree.fromstring(marked)
    assert marked.count(b'rdf:about="it is &quot;so&quot;"') == 1
