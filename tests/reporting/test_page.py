"""A page of sections."""

import pytest
from matplotlib.figure import Figure

from tests.reporting.hostile import NAMES
from tests.reporting.test_html import Page as Parsed
from tests.reporting.test_html import assert_self_contained
from thriftnet.reporting.figures import new_figure
from thriftnet.reporting.page import (
    Code,
    Drawing,
    Facts,
    Heading,
    Headline,
    Link,
    Page,
    Section,
    Side,
    Sides,
    SmallDrawings,
    Table,
    Text,
    render_page,
)


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


def test_a_drawing_is_described_by_its_caption_or_in_other_words() -> None:
    text = page(Drawing(drawn(), 'as "drawn"'), Drawing(drawn(), "shown", alt="A falling line"))
    assert '<svg role="img" aria-label="as &quot;drawn&quot;"' in text
    assert '<svg role="img" aria-label="A falling line"' in text


def everything(text: str) -> str:
    """Every kind of block with `text` in every place that takes text."""
    side = Side(text, text, text, claimed=True, badge=text)
    figure = Drawing(drawn(), text, wide=True, alt=text)
    blocks = [
        Text(text),
        Text(text, note=True),
        Text(text, muted=True),
        Heading(text),
        Facts([(text, text)]),
        Code(text),
        Table([text, "number"], [[text, 1], [Link(text, "section-1"), None]], text, totals=[text, 2]),
        figure,
        SmallDrawings([figure]),
        Headline(text, text, text),
        Sides([side, side]),
    ]
    return render_page(Page(text, text, text, [Section(text, blocks, badge=text)], head=blocks))


def test_hostile_text_in_any_block_adds_no_element_and_no_attribute() -> None:
    def skeleton(text: str) -> list[str]:
        parsed = Parsed(everything(text))
        assert_self_contained(parsed, "")
        return parsed.elements + [attribute for attribute, _ in parsed.attributes]

    assert skeleton(" ".join(NAMES)) == skeleton("harmless and so long that it is broken into lines")


def test_what_a_row_lacks_is_an_error_not_a_shifted_column() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells does not fit 2 columns"):
        page(Table(["a", "b"], [[1, 2], [3]]))
