"""Imports go one way, and importing the package is cheap."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "thriftnet"

# Each may import only from those above it and from itself; docs/architecture.md draws it.
ORDER = [
    "errors",
    "memory",
    "storage",
    "fonts",
    "config",
    "recipe",
    "twins",
    "kernels",
    "runtime",
    "distributed",
    "data",
    "augment",
    "models",
    "optim",
    "evaluation",
    "training",
    "run",
    "run_data",
    "predictor",
    "inference",
    "run_landscape",
    "shift",
    "reporting",
    "tracking",
    "campaign",
    "comparison",
    "tuning",
    "ledger",
    "api",
    "cli",
    "__main__",
]


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_imports_go_only_downward() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        here = ORDER.index(parts[0])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "thriftnet":
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thriftnet."):
                imported = [part_of(node.module or "")]
            elif isinstance(node, ast.Import):
                imported = [part_of(alias.name) for alias in node.names if alias.name.startswith("thriftnet.")]
            else:
                continue
            wrong += [f"{path.name}: {name}" for name in imported if ORDER.index(name) > here]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {
        ".".join(("thriftnet", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    imports: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                found |= {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys() or {str(node.module)}
        imports[name] = found - {name}
    TopologicalSorter(imports).prepare()  # raises CycleError


def test_every_part_is_in_the_order() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__"} == set(ORDER)


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = ("torch", "matplotlib", "sklearn", "pyarrow", "wandb", "tensorboard")
    code = f"import sys, thriftnet; print([m for m in {heavy} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
