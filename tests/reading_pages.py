"""A page as a reader meets it: elements, their attributes, and text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "rect", "line", "polygon", "polyline", "path"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""  # its own and that of all in it, spaces evened out
    inside: list["Element"] = field(default_factory=list)

    def find(self, tag: str, **attributes: str) -> list["Element"]:
        """All elements of this tag in here, in order, with these attributes (`class_` for class, `_` for `-`)."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [e for e in self.all() if e.tag == tag and wanted.items() <= e.attributes.items()]

    def all(self) -> list["Element"]:
        """Every element in here, in document order."""
        return [found for child in self.inside for found in (child, *child.all())]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].inside.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def read_page(html: str) -> Element:
    """The page's elements. Fails where one is not closed, or closed in another order."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is never closed"
    for element in (reader.open[0], *reader.open[0].all()):
        element.text = " ".join(element.text.split())
    return reader.open[0]
