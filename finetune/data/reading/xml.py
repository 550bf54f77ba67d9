"""XML files of annotations, read without what could exhaust the memory."""

import xml.etree.ElementTree as ET
from pathlib import Path

from finetune.errors import UserError


class _WithoutDoctype(ET.TreeBuilder):
    """Refuses document types, the only place where a file can declare entities.

    `xml.etree` reads no external entities, but expands those declared in the file, and nested ones can
    exhaust the memory.
    """

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type (<!DOCTYPE>), which annotations do not need; remove it")


def parse_xml(file: Path) -> ET.Element:
    """Return the first element of a file that fits in memory.

    Raises:
        UserError: there is no such file, it is not XML, or it declares a document type.
    """
    if not file.is_file():
        raise UserError(f"No file {file}.")
    try:
        root: ET.Element = ET.parse(file, ET.XMLParser(target=_WithoutDoctype())).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:  # the last: an unknown encoding
        raise UserError(f"{file}: not an XML file of annotations: {error}.") from error
    return root


def find_text(element: ET.Element, path: str, where: str) -> str:
    """Return the text of an element below another.

    Raises:
        UserError: there is none.
    """
    text = (element.findtext(path) or "").strip()
    if not text:
        raise UserError(f"{where}: no <{path.replace('/', '><')}>.")
    return text


def find_number(element: ET.Element, path: str, where: str) -> float:
    """Return the number that is the text of an element below another.

    Raises:
        UserError: there is none.
    """
    text = find_text(element, path, where)
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{where}: <{path.replace('/', '><')}> must be a number, got {text!r}.") from error
