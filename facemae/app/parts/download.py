"""Charts that a reader can take along: as PNG or SVG from the browser, or as a page of its own (HTML)."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from facemae.report.chart_spec import Chart
from facemae.report.charts import draw as drawn

NO, PNG, SVG, HTML = "off", "PNG", "SVG", "HTML"
FORMS = (NO, PNG, SVG, HTML)
CAMERA = (
    "The camera at the top right of each chart saves it on a clear ground, in the colours of this page; the "
    "light theme is the one to print."
)
SCALE = 3  # pixels of a PNG for each of the page's
WIDTH = 900  # pixels of a chart on a page of its own


def choice(key: str) -> str:
    """Let the reader choose in which form the page's charts can be saved, and return it, one of FORMS."""
    chosen: str | None = st.segmented_control(
        "Save charts as", FORMS, default=NO, key=key, required=True, bind="query-params"
    )
    notes = {
        PNG: CAMERA,
        SVG: CAMERA,
        HTML: "The button below each chart saves it as one file that opens without a network.",
    }
    if chosen in notes:
        st.caption(notes[chosen])
    return chosen or NO


def chart(each: Chart, form: str = NO, *, key: str | None = None, captioned: bool = True) -> None:
    """Draw a chart, below the sentence that says how to read it unless `captioned` is False."""
    if captioned:
        st.caption(each.read)
    draw(drawn(each), form, key=key or each.name, alt=each.alt, read=each.read)


def draw(figure: go.Figure, form: str, *, key: str, alt: str, read: str) -> None:
    """Draw a chart that can be saved in the form chosen.

    Args:
        figure: The chart.
        form: One of FORMS.
        key: Of the chart on the page, and the name of its file.
        alt: What stands for it where it cannot be seen.
        read: How to read it, for a page of its own; shown by the caller, or above several charts at once.
    """
    st.plotly_chart(figure, key=key, config=_config(form, key), alt=alt)
    if form == HTML:
        st.download_button(
            "Save as HTML",
            lambda: page_of(figure, alt, read),
            f"{_file(key)}.html",
            "text/html",
            key=f"save_{key}",
            on_click="ignore",
            type="tertiary",
            icon=":material/download:",
        )


def page_of(figure: go.Figure, title: str, read: str) -> str:
    """Return a chart as a page that needs no other file: title, how to read it, and the chart."""
    paper = go.Figure(figure).update_layout(paper_bgcolor="white", plot_bgcolor="white", font_color="#1F2328")
    drawn = paper.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    style = f"<style>body {{ font: 16px sans-serif; max-width: {WIDTH}px; margin: 2em auto }}</style>"
    text = f"<p><b>{html.escape(title)}</b></p><p>{html.escape(read)}</p>"
    return f'<!DOCTYPE html><html lang="en"><head>{head}{style}</head><body>{text}{drawn}</body></html>'


def _config(form: str, key: str) -> dict[str, Any]:
    if form not in (PNG, SVG):
        return {"displayModeBar": False}
    picture = {"format": form.lower(), "filename": _file(key), "scale": SCALE if form == PNG else 1}
    return {
        "displayModeBar": True,
        "displaylogo": False,
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": picture,
    }


def _file(key: str) -> str:
    return f"facemae-{key.replace('_', '-')}"
