from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.reporting import hostile
from thriftnet.errors import StorageError
from thriftnet.evaluation.accuracy_estimates import NAMES
from thriftnet.evaluation.corruptions import BENCHMARK, SEVERITIES
from thriftnet.evaluation.metrics import evaluate_logits
from thriftnet.models.summary import summarize
from thriftnet.reporting.class_figures import confusion_data, distribution_data, draw_confusion, draw_distribution
from thriftnet.reporting.confusion import confused_images_data
from thriftnet.reporting.curves import curves_data, draw_curves, draw_learning_rate, learning_rate_data
from thriftnet.reporting.html import Claim, RunFigures, RunReport, render_report, write_report
from thriftnet.reporting.image_figures import (
    augmented_batch_data,
    draw_augmented_batch,
    draw_mistakes,
    mistakes_data,
)
from thriftnet.reporting.shift_figures import draw_foretold, draw_heat_map, foretold_data, heat_map_data
from thriftnet.shift import Condition, ShiftMeasurement, Stored, StoredRemedies, StoredRemedy

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements nest and close, and collects text, tags and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    @property
    def elements(self) -> list[str]:
        """Without the places where a long word may be broken, which its letters decide."""
        return [tag for tag in self.tags if tag != "wbr"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


def report(**changes: Any) -> RunReport:
    plain = RunReport(
        recipe="tiny",
        dataset="digits",
        training_images=1000,
        validation_images=200,
        class_count=2,
        parameters=1234,
        parameter_budget=5_000_000,
        selection="validation",
        selected_epoch=3,
        epochs=5,
        epochs_planned=5,
        seed=7,
        split_seed=0,
        device="cpu",
        precision="fp32",
        elapsed_s=3725.0,
        recipe_text="name = 'tiny'",
        command="thriftnet train tiny --seed 7",
        train_accuracy=0.99,
        validation_accuracy=0.97,
    )
    return replace(plain, **changes)


def evaluation(names: tuple[str, str] = ("cat", "dog")) -> Any:
    logits = torch.tensor([[2.0, 0], [2, 0], [0, 2], [2, 0]])
    return evaluate_logits(logits, torch.tensor([0, 0, 1, 1]), names)


def shift_measurement(text: str) -> ShiftMeasurement:
    """As it is stored, with `text` wherever text comes from outside."""
    values: dict[str, Any] = {"loss": 1.0, "calibration_error": 0.1, "estimated": dict.fromkeys(NAMES, 0.6)}
    conditions = [
        Condition(corruption=name, severity=level, accuracy=0.9 - level / 10, compared_accuracy=0.8, **values)
        for name in BENCHMARK
        for level in SEVERITIES
    ]
    context = {
        "split": "test", "test_selected": False, "images": 50, "split_images": 100, "how": text, "tta": "none",
        "weights": "last", "temperatures": None, "adapt_batchnorm": False, "device": text, "precision": text,
        "estimates_from": text, "data": {"location": text}, "runs": [{"recipe": text, "seed": 1, "path": text}],
    }  # fmt: skip
    clean = Condition(corruption="clean", severity=0, accuracy=0.9, compared_accuracy=0.9, **values)
    stored = Stored(context=context, complete=True, clean=clean, conditions=conditions, left_out={"saturate": text})
    return ShiftMeasurement(Path("shift-test.json"), stored)


def full_report(names: tuple[str, ...], text: str, drawn: bool = True) -> RunReport:
    """Every part of the page, with `text` wherever text comes from outside; drawing takes a second."""
    count = len(names)
    labels = torch.arange(count).repeat(3)
    logits = torch.nn.functional.one_hot(torch.cat([labels[: 2 * count], (labels[:count] + 1) % count]), count).float()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3 * count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    measured = evaluate_logits(logits, labels, names)
    history = [{"epoch": e, "train_loss": 1 / e, "train_accuracy": 0.5} for e in (1, 2)]
    curves = curves_data(history, selected_epoch=2)
    counts = [score.predicted for score in measured.classes]
    return report(
        recipe=text,
        dataset=text,
        summary=text,
        paper=text,
        recipe_text=text,
        command=text,
        device=text,
        environment={text: text},
        claim=Claim(91.47, text, text),
        evaluation=measured,
        confused=confused_images_data(pixels, logits, labels),
        shift=shift_measurement(text),
        remedies=StoredRemedies(
            context=shift_measurement(text).stored.context,
            remedies=(StoredRemedy(**dict.fromkeys(StoredRemedy.model_fields, 0.5) | {"name": text}),),
            notes=(text,),
        ),
        layers=summarize(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8)),
        figures=RunFigures()
        if not drawn
        else RunFigures(
            loss=draw_curves(curves, ["loss"]),
            accuracy=draw_curves(curves, ["accuracy"]),
            learning_rate=draw_learning_rate(learning_rate_data([0.1, 0.2], 1)),
            augmented=draw_augmented_batch(augmented_batch_data(pixels, 255 - pixels, labels, names)),
            confusion=draw_confusion(confusion_data(measured)),
            distribution=draw_distribution(distribution_data(names, counts, counts)),
            mistakes=draw_mistakes(mistakes_data(pixels, logits, labels, names)),
            shift=draw_heat_map(heat_map_data(shift_measurement(text))),
            foretold=draw_foretold(foretold_data(shift_measurement(text))),
        ),
    )


def test_a_full_page_is_well_formed_and_asks_nothing_of_the_network() -> None:
    page_source = render_report(full_report((EVIL, "dog & <b>bone</b>"), EVIL))
    page = Page(page_source)
    assert page.tags.count("svg") == 8  # a matrix of two classes is a table, not a figure
    assert page.tags.count("script") == 1
    assert "b" not in page.tags
    assert EVIL in page.text
    assert "dog & <b>bone</b>" in page.text
    assert "Conv2d-1" in page.text
    assert_self_contained(page, page_source)


@pytest.mark.parametrize("text", [name for name in hostile.NAMES if name])
def test_hostile_text_adds_no_element_and_no_attribute(text: str) -> None:
    def skeleton(name: str) -> list[str]:
        page = Page(render_report(full_report((name, f"{name} 2"), name, drawn=False)))
        assert_self_contained(page, "")
        return page.elements + [attribute for attribute, _ in page.attributes]

    assert skeleton(text) == skeleton("harmless")


def assert_self_contained(page: Page, source: str) -> None:
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "poster", "srcset", "data"):
            assert value.startswith(("#", "data:image/png;base64,")), value
        if name not in ("aria-label", "title", "alt"):  # which are read as text
            assert "url(" not in value or re.fullmatch(r".*url\(#[\w-]+\).*", value, re.DOTALL), value
        assert not name.startswith("on")
    assert "@import" not in source
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in page.attributes if name == "href"} <= set(ids)


def test_the_policy_allows_the_one_script_of_the_page_and_nothing_else() -> None:
    source = render_report(report())
    script = re.search("<script>(.*?)</script>", source, re.DOTALL)
    assert script is not None
    digest = b64encode(sha256(script[1].encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert ("content", policy) in Page(source).attributes
    assert source.index("Content-Security-Policy") < source.index("<title>")


def test_a_confusion_matrix_of_numbers_replaces_the_figure_up_to_25_classes() -> None:
    def page_of(classes: int) -> Page:
        content = full_report(tuple(f"class {k}" for k in range(classes)), "text", drawn=False)
        assert content.evaluation is not None
        figure = draw_confusion(confusion_data(content.evaluation))
        return Page(render_report(replace(content, figures=RunFigures(confusion=figure))))

    few, many = page_of(25), page_of(26)
    assert (few.tags.count("svg"), many.tags.count("svg")) == (0, 1)
    assert "“class 3” taken for “class 4”: 1 image, 33.3 % of the class" in few.text
    assert "“class 3” recognised: 2 images, 66.7 % of the class" in few.text
    assert "Too many classes to number every cell" in many.text
    assert "recognised" not in many.text


def test_the_head_says_what_was_measured_on_what() -> None:
    text = Page(render_report(report(evaluation=evaluation()))).text
    assert "75.00 % accuracy on 4 test images" in text
    assert "95 % interval 30.06 % to 95.44 %" in text
    assert "1,000 images for training, 200 for validation (split seed 0)" in text
    assert "3 of 5: best validation accuracy" in text
    assert "1,234 of a budget of 5,000,000" in text
    assert "1 h 2 min" in text
    assert "test-selected" not in text
    assert "flatters" not in text


def test_a_run_without_evaluation_says_so_and_shows_its_validation_accuracy_with_the_caveat() -> None:
    text = Page(render_report(report(claim=Claim(91.0, "")))).text
    assert "97.00 % validation accuracy of epoch 3, as training saw it; not evaluated yet" in text
    assert "Until then the test images are sealed" in text
    assert "so the number flatters" in text
    assert "Measured minus claimed" not in text  # validation is not what was claimed


def test_a_run_without_any_held_out_number_shows_none() -> None:
    text = Page(render_report(report(selection="last", validation_images=0, validation_accuracy=None))).text
    assert "– not evaluated yet" in text
    assert "none for validation" in text
    assert "flatters" not in text


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_test_selected_number_is_labelled_wherever_it_stands(evaluated: bool) -> None:
    html = render_report(
        report(
            selection="test",
            test_accuracy=0.75,
            evaluation=evaluation() if evaluated else None,
            claim=Claim(76.0, "Table 1"),
        )
    )
    text = Page(html).text
    assert html.count('<span class="badge">test-selected</span>') == (3 if evaluated else 2)
    assert "Test-selected: the kept epoch" in text
    assert "Test accuracy of that epoch (test-selected) 75.00 %" in text
    assert "best test accuracy (test-selected)" in text
    assert "Measured minus claimed: −1.00 percentage points, from one run." in text


def test_claimed_and_measured_stand_apart_and_no_difference_is_shown_where_it_would_mislead() -> None:
    claim = Claim(91.47, "Table 1, trial 5", "other images")
    html = render_report(report(evaluation=evaluation(), claim=claim))
    text = Page(html).text
    assert "Claimed by the source, not measured here 91.47 % Table 1, trial 5" in text
    assert "Measured here 75.00 %" in text
    assert "Not comparable: other images" in text
    assert "Measured minus claimed" not in text
    assert (
        "Measured minus claimed: −16.47"
        in Page(render_report(report(evaluation=evaluation(), claim=replace(claim, not_comparable="")))).text
    )


def test_an_incomplete_run_says_so() -> None:
    text = Page(render_report(report(status="running", epochs=5, epochs_planned=70))).text
    assert "Not complete: 5 of 70 epochs." in text
    stopped = Page(render_report(report(status="stopped early", epochs=5, epochs_planned=70))).text
    assert "Stopped early by the recipe's rule: 5 of 70 epochs." in stopped


def test_undefined_ratios_are_dashes() -> None:
    never = evaluate_logits(torch.tensor([[1.0, 0]]), torch.tensor([0]), ("cat", "dog"))
    text = Page(render_report(report(evaluation=never))).text
    assert "cat 100.00 % 100.00 % 100.00 % 1 1 dog – – – 0 0" in text


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_report(report(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text("utf-8") == render_report(report())
    with pytest.raises(StorageError, match="its folder does not exist"):
        write_report(report(), tmp_path / "missing" / "report.html")
