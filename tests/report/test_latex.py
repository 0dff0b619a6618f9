"""The leaderboard as LaTeX."""

import pandas as pd

from facemae.report.latex import escaped, latex


def test_a_table_has_means_intervals_and_the_best_run_in_bold() -> None:
    rows = [
        {"run": run, "kind": "baseline" if run == "hog_lda" else "run", "metric": metric, "condition": "",
         "value": value, "ci_low": None if value is None else value - 0.1,
         "ci_high": None if value is None else value + 0.1}
        for run, values in (("scratch", (0.8, 0.2)), ("random", (0.9, None)), ("hog_lda", (0.95, 0.1)))
        for metric, value in zip(("roc_auc", "eer"), values, strict=True)
    ]  # fmt: skip
    covered = rows[0] | {"condition": "mask", "value": 0.99}
    text = latex(pd.DataFrame([*rows, covered]), ["roc_auc", "eer"])
    assert r"scratch & 0.800 [0.700, 0.900] & \textbf{0.200} [0.100, 0.300] \\" in text
    assert r"random & \textbf{0.900} [0.800, 1.000] & refused \\" in text
    assert text.count(r"\textbf") == 2  # no control
    assert text.index(r"\midrule" + "\nhog") > text.index("random")
    assert text.startswith("%")
    assert text.count("{") == text.count("}")


def test_names_are_no_commands() -> None:
    assert escaped(r"a_b & 50% \x ~^") == (
        r"a\_b \& 50\% \textbackslash{}x \textasciitilde{}\textasciicircum{}"
    )
