"""Equations of the site as MathML, which browsers show without a script or a font.

A hook of mkdocs (mkdocs.yml): `$...$` and `$$...$$`, which arithmatex has found.
"""

import html
import re

from latex2mathml.converter import convert

FOUND = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)


def on_page_content(content: str, **_) -> str:
    """The page's HTML with its equations converted."""

    def mathml(found: re.Match) -> str:
        display = "block" if found[1] == "div" else "inline"
        return convert(html.unescape(found[2]), display=display)

    return FOUND.sub(mathml, content)
