"""The ledger's figures: what is drawn where."""

import numpy as np
from matplotlib.figure import Figure

from thriftnet.reporting.figures import inline_svg
from thriftnet.reporting.ledger_figures import ClaimDot, ForestRow, draw_claims, draw_forest, forest_data

DOTS = [
    ClaimDot("full", (91.47,), 90.0, (89.5, 90.5), full=True),
    ClaimDot("scaled", (89.0, 90.0), 60.0, None, full=False),
    ClaimDot("none claimed", (), 55.0, None, full=False),
]
ROWS = [
    ("points", ForestRow("A against B", 1.5, (0.5, 2.5), 8.0, "holds")),
    ("points an epoch", ForestRow("Roughness", -0.5, None, None, "not decided")),
    ("points", ForestRow("C against D", -2.0, (-3.0, -1.0), None, "fails")),
]


def points(figure: Figure, axes: int, marker: str) -> list[tuple[float, float, bool]]:
    """(x, y, filled) of all drawn markers of a kind; those of the legend have none."""
    lines = [line for line in figure.axes[axes].get_lines() if line.get_marker() == marker and len(line.get_xdata())]
    return [
        (float(x), float(y), line.get_markerfacecolor() != "none")
        for line in lines
        for x, y in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)
    ]


def test_measured_dots_are_hollow_where_shortened() -> None:
    figure = draw_claims(DOTS)
    assert points(figure, 0, "o") == [(90.0, 0.0, True), (60.0, 1.0, False), (55.0, 2.0, False)]
    assert [point[:2] for point in points(figure, 0, "D")] == [(91.47, 0), (89, 1), (90, 1)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["full", "scaled", "none claimed"]


def test_each_unit_has_a_panel_of_its_own() -> None:
    data = forest_data(ROWS)
    assert [(unit, [row.question for row in rows]) for unit, rows in data.panels] == [
        ("points", ["A against B", "C against D"]),
        ("points an epoch", ["Roughness"]),
    ]
    figure = draw_forest(data)
    assert len(figure.axes) == 2
    assert [point[:2] for point in points(figure, 0, "o")] == [(1.5, 0), (-2.0, 1)]
    assert [point[:2] for point in points(figure, 0, "D")] == [(8.0, 0)]
    assert [point[:2] for point in points(figure, 1, "o")] == [(-0.5, 0)]
    intervals = [
        tuple(np.asarray(line.get_xdata())) for line in figure.axes[0].get_lines() if line.get_marker() == "None"
    ]
    assert (0.5, 2.5) in intervals
    assert (-3.0, -1.0) in intervals


def test_figures_go_into_a_page() -> None:
    for figure in (draw_claims(DOTS), draw_forest(forest_data(ROWS))):
        assert inline_svg(figure, "ledger", "what it shows").startswith("<svg")
