"""A page of sections."""

from matplotlib.figure import Figure

from thriftnet.reporting.figures import new_figure
from thriftnet.reporting.page import Code, Drawing, Facts, Page, Section, Table, Text, render_page


def drawn() -> Figure:
    figure = new_figure(3, 2)
    figure.add_subplot().plot([0, 1], [1, 0])
    return figure


def page(*blocks: object) -> str:
    return render_page(Page("a study", "grid <1>", "What was found.", [Section("Part & parcel", blocks)]))  # type: ignore[arg-type]


def test_every_block_is_shown_and_escaped() -> None:
    text = page(
        Text("a <b> paragraph"),
        Text("careful", note=True),
        Facts([("Seeds", "<3>")]),
        Code("thriftnet train <x>"),
        Table(["name", "value"], [["<script>", 1234], ["b", None], ["c", 0.123456]], "A table."),
    )
    for expected in ("a &lt;b&gt; paragraph", "&lt;3&gt;", "train &lt;x&gt;", "&lt;script&gt;", "1,234", "–", "0.1235"):
        assert expected in text
    assert "<title>grid &lt;1&gt; · thriftnet</title>" in text
    assert 'href="#section-1">Part &amp; parcel<' in text


def test_figures_are_inside_the_file_with_names_of_their_own() -> None:
    text = page(Drawing(drawn(), "first"), Drawing(drawn(), "second"))
    assert text.count("<svg") == 2
    assert "drawing-0" in text
    assert "drawing-1" in text
    assert "http://www.w3.org/2000/svg" in text or "<svg" in text
    assert "src=" not in text
