"""HTML as values: every tag is closed and every text escaped because nothing else can be written."""

from __future__ import annotations

from html import escape

VOID = frozenset({"br", "col", "link", "meta"})
"""Elements without an end tag; SVG shapes get one, which is right in HTML and in XML."""


class Html(str):
    """Text that is markup already. Any other string given to `el` is escaped."""

    __slots__ = ()


def join(*parts: Html | str | None) -> Html:
    return Html("".join(p if isinstance(p, Html) else escape(p) for p in parts if p is not None))


def el(tag: str, *children: Html | str | None, **attributes: str | float | bool | None) -> Html:
    """`el("td", "a < b", cls="num")` is `<td class="num">a &lt; b</td>`.

    `cls` stands for `class`, `_` in names for `-`. True gives a bare attribute; None and False leave it out.
    Floats are written to two decimals: they are pixels of charts.
    """
    text = f"<{tag}"
    for key, value in attributes.items():
        name = "class" if key == "cls" else key.replace("_", "-")
        if value is True:
            text += f" {name}"
        elif isinstance(value, float):
            text += f' {name}="{value:.2f}"'
        elif value is not None and value is not False:
            text += f' {name}="{escape(str(value))}"'
    return Html(f"{text}>") if tag in VOID else Html(f"{text}>{join(*children)}</{tag}>")
