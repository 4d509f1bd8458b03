"""The notebook runs from top to bottom, as a reader would run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient", reason="pip install 'thriftnet[notebook]' to run the notebook")
nbformat = pytest.importorskip("nbformat", reason="pip install 'thriftnet[notebook]' to run the notebook")
pytest.importorskip("ipykernel", reason="pip install 'thriftnet[notebook]' to run the notebook")
pytest.importorskip("ipywidgets", reason="pip install 'thriftnet[notebook]' to run the notebook")

NOTEBOOK = Path(__file__).parents[1] / "docs" / "walkthrough.ipynb"


def html_of(cell: Any) -> str:
    return "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_from_data_to_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    cells = {cell.source: cell for cell in notebook.cells if cell.cell_type == "code"}

    def cell(part: str) -> Any:
        return next(cell for source, cell in cells.items() if part in source)

    for each in cells.values():
        assert [output.text for output in each.outputs if output.get("name") == "stderr"] == []
    training = cell("thriftnet.train(")
    mimes = [mime for output in training.outputs for mime in output.get("data", {})]
    assert "application/vnd.jupyter.widget-view+json" in mimes  # the progress bar
    assert [f"epoch {epoch}/6" in html_of(training) for epoch in range(1, 7)] == [True] * 6
    assert html_of(training).count("<img") == 2
    measured = html_of(cell("thriftnet.evaluate("))
    assert "<img" in measured
    accuracy = float(next(o.text for o in cell("evaluation.accuracy").outputs if o.output_type == "stream"))
    assert accuracy > 0.95
    assert "digit-00.png" in html_of(cell("thriftnet.predict("))
    assert {path.name for path in tmp_path.iterdir()} - {"ipython"} != set()
    assert len(list(tmp_path.glob("*/report.html"))) == 1
