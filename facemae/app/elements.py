"""Elements that the pages share: choices, tables, pictures, charts to take along, components of our own."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from facemae.data.images import encode_png
from facemae.report import charts
from facemae.report.chart_spec import Chart
from facemae.report.claims import Claim
from facemae.report.phrases import ORIGIN

T = TypeVar("T")

THUMBNAIL = 64  # pixels of a picture in a table
NARROWEST, WIDEST, GAP = 150, 240, 8  # pixels of a picture in a row, and between two
NO, PNG, SVG, HTML = "off", "PNG", "SVG", "HTML"  # forms in which a chart can be saved
CAMERA = (
    "The camera at the top right of each chart saves it on a clear ground, in the colours of this page; the "
    "light theme is the one to print."
)
BUTTON = "The button below each chart saves it as one file that opens without a network."
FORMS = {NO: "", PNG: CAMERA, SVG: CAMERA, HTML: BUTTON}
PNG_SCALE = 3  # pixels of a PNG for each of the page's
PAGE_WIDTH = 900  # pixels of a chart on a page of its own


def choose(
    label: str, options: Sequence[T], key: str, index: int | None = 0, place: Any = st, **more: Any
) -> T:
    """Let the visitor choose one of a list, at first that at `index`; the choice stands in the address."""
    chosen: T = place.selectbox(label, options, index, key=key, bind="query-params", **more)
    return chosen


def switch(
    label: str, options: Sequence[T], key: str, default: T | None = None, place: Any = st, **more: Any
) -> T:
    """Let the visitor choose one of a row of buttons, at first the default or else the first."""
    first = options[0] if default is None else default
    chosen: T = place.segmented_control(label, options, default=first, required=True, key=key, **more)
    return chosen


def tiles(shown: Mapping[str, Any], about: Mapping[str, str] | None = None) -> None:
    """Show numbers side by side by their names, some of them with what they are about."""
    with st.container(horizontal=True, gap="large"):
        for name, value in shown.items():
            st.metric(name, value, help=(about or {}).get(name), width="content")


def table(
    rows: pd.DataFrame,
    alt: str,
    columns: Mapping[str, Any] | None = None,
    pictures: Mapping[str, str] | None = None,
    **more: Any,
) -> None:
    """Show a table without its index.

    `columns` are the titles or set-ups of those that are shown, in their order; None: all as they are.
    Columns of pictures (`picture`) come first.
    """
    if pictures:
        small = {name: st.column_config.ImageColumn(title, width="small") for name, title in pictures.items()}
        columns = small | dict(columns or {})
        more |= {"row_height": THUMBNAIL, "height": "content"}
    order = None if columns is None else list(columns)
    st.dataframe(rows, hide_index=True, column_config=columns, column_order=order, alt=alt, **more)


def picture(png: bytes) -> str:
    """Return a picture as an address, for a table's column of pictures or a page's markup."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def number(label: str, form: str) -> Any:
    """Return the set-up of a table's column of numbers."""
    return st.column_config.NumberColumn(label, format=form)


# Titles and set-ups of the columns of results.
COLUMNS: dict[str, Any] = {
    "run": "Run",
    "seed": "Seed",
    "amount": number("Amount", "%.3g"),
    "value": number("Value", "%.3f"),
    "ci_low": number("Interval from", "%.3f"),
    "ci_high": number("to", "%.3f"),
    "n": "Behind it",
    "strategy": "Mask",
    "origin": ORIGIN,
    "seeds": "Seeds",
    "people": "People",
    "seconds_pretrain": number("Pretraining s", "%.0f"),
    "seconds_finetune": number("Fine-tuning s", "%.0f"),
    "images_pretrain": number("Images pretraining", "localized"),
    "images_finetune": number("Images fine-tuning", "localized"),
    "joules": number("Joules", "%.0f"),
    "device": "Device",
    "note": "Note",
}


def results_table(rows: pd.DataFrame, alt: str, names: Iterable[str] = COLUMNS, **more: Any) -> None:
    """Show those columns of a table of results that hold anything."""
    known = [name for name in names if name in rows and rows[name].notna().any()]
    table(rows, alt, {name: COLUMNS[name] for name in known}, **more)


def pictures(
    shown: Mapping[str, NDArray[np.uint8] | bytes],
    before: str = "",
    after: str = "",
    narrowest: int = NARROWEST,
    widest: int = WIDEST,
) -> None:
    """Show pictures, (H, W, 3 or 4) or PNG, with their names, as many side by side as fit.

    None is narrower than can be seen on a telephone. The alternative text is the name with what stands
    `before` and `after` it.
    """
    if not shown:
        return
    count = len(shown)
    grid = st.grid(count, min_column_width=narrowest, gap=GAP, width=count * (widest + GAP) - GAP)
    for name, picture in shown.items():
        with grid.cell(), st.container(gap="xxsmall"):
            png = picture if isinstance(picture, bytes) else encode_png(picture)
            # As PNG, since a JPEG blurs the edges of patches, and of a moving picture it makes a still.
            st.image(png, width="stretch", output_format="PNG", alt=f"{before}{name}{after}")
            st.caption(name, text_alignment="center")


def chart_form(key: str) -> str:
    """Let the reader choose in which form the page's charts can be saved, and return it, one of FORMS."""
    form = switch("Save charts as", list(FORMS), key, bind="query-params")
    if FORMS[form]:
        st.caption(FORMS[form])
    return form


def chart(each: Chart, form: str = NO, *, key: str | None = None, captioned: bool = True) -> None:
    """Draw a chart, below the sentence that says how to read it unless `captioned` is False."""
    if captioned:
        st.caption(each.read)
    draw(charts.draw(each), key or each.name, each.alt, form, each.read)


def draw(figure: go.Figure, key: str, alt: str, form: str = NO, read: str = "") -> None:
    """Draw a chart that can be saved in one of FORMS, under its key; `read` stands on a page of its own."""
    name = f"facemae-{key.replace('_', '-')}"
    settings: dict[str, Any] = {"displayModeBar": False}
    if form in (PNG, SVG):
        picture = {"format": form.lower(), "filename": name, "scale": PNG_SCALE if form == PNG else 1}
        settings = {
            "displayModeBar": True, "displaylogo": False, "modeBarButtons": [["toImage"]],
            "toImageButtonOptions": picture,
        }  # fmt: skip
    st.plotly_chart(figure, key=key, config=settings, alt=alt)
    if form == HTML:
        download(
            "Save as HTML", lambda: page_of(figure, alt, read), f"{name}.html", "text/html",
            key=f"save_{key}", type="tertiary",
        )  # fmt: skip


def page_of(figure: go.Figure, title: str, read: str) -> str:
    """Return a chart as a page that needs no other file: title, how to read it, and the chart."""
    paper = go.Figure(figure).update_layout(paper_bgcolor="white", plot_bgcolor="white", font_color="#1F2328")
    drawn = paper.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    style = f"<style>body {{ font: 16px sans-serif; max-width: {PAGE_WIDTH}px; margin: 2em auto }}</style>"
    text = f"<p><b>{html.escape(title)}</b></p><p>{html.escape(read)}</p>"
    return f'<!DOCTYPE html><html lang="en"><head>{head}{style}</head><body>{text}{drawn}</body></html>'


def download(label: str, content: Any, name: str, kind: str, **more: Any) -> None:
    """Offer a file of a name and kind, whose content may be a function that makes it; the page stays."""
    more = {"key": name, "icon": ":material/download:"} | more
    st.download_button(label, content, name, kind, on_click="ignore", **more)


def words(*sentences: str, tag: str = "p") -> None:
    """Write sentences that came from a file, literally; each in a paragraph of its own if `tag` is one."""
    st.html("".join(f"<{tag}>{html.escape(sentence)}</{tag}>" for sentence in sentences))


def claims(found: Sequence[Claim]) -> None:
    """Show each claim about masked autoencoders with what became of it; nothing where none was judged."""
    if found:
        with st.expander("What is claimed of masked autoencoders, and what was found"):
            for claim in found:
                words(f"{claim.claim}.", tag="b")
                words(claim.sentence)


def component(name: str, markup: str) -> Any:
    """Return a component of our own, whose script and style are the files of its name in `parts`.

    They are given to Streamlit as text, so that nothing is loaded from elsewhere; data reach the script as
    data and are set as text, never as markup.
    """
    beside = resources.files("facemae.app.parts")
    style, script = (beside.joinpath(f"{name}.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return st.components.v2.component(f"facemae_{name}", html=markup, css=style, js=script)
