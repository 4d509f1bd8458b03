"""thriftnet: the best image classifier a parameter budget can buy.

    import thriftnet

    network = thriftnet.build("liu-4x2", num_classes=37)      # a plain torch.nn.Module
    run = thriftnet.train("digits-demo", data="digits")       # a run folder, opened
    print(thriftnet.evaluate(run).evaluation.accuracy)
    thriftnet.predict(run, "images/", out="predictions.csv")

The functions have the names and words of the commands. Nothing heavy is imported until one of them is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thriftnet.api import (
        build,
        calibrate,
        check,
        compare,
        data_info,
        evaluate,
        evaluate_shift,
        landscape,
        load_recipe,
        load_run,
        predict,
        recipe_table,
        remedies,
        report,
        resume,
        summary,
        train,
        train_seeds,
    )
    from thriftnet.errors import ThriftnetError

__version__ = "0.1.0"

__all__ = [
    "ThriftnetError",
    "build",
    "calibrate",
    "check",
    "compare",
    "data_info",
    "evaluate",
    "evaluate_shift",
    "landscape",
    "load_recipe",
    "load_run",
    "predict",
    "recipe_table",
    "remedies",
    "report",
    "resume",
    "summary",
    "train",
    "train_seeds",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'thriftnet' has no attribute {name!r}")
    return getattr(import_module("thriftnet.errors" if name == "ThriftnetError" else "thriftnet.api"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
