"""No source file may read what can run code: a pickle, `torch.load` without its restriction, YAML tags, `eval`.

The check reads syntax trees, so that a comment or a string is no match and another line layout no escape. What is
allowed all the same is listed with its reason, and an entry that matches nothing any more is an error too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEARCHED = ("src", "scripts", "benchmarks", "tests")

FORBIDDEN_NAMES = {
    "eval", "exec", "compile", "__import__",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.load", "_pickle.loads", "_pickle.Unpickler",
    "cPickle.load", "cPickle.loads", "cPickle.Unpickler", "pickle._load", "pickle._loads", "pickle._Unpickler",
    "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "pandas.read_pickle",
    "marshal.load", "marshal.loads", "shelve.open", "jsonpickle.decode",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all",
    "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.hub.download_url_to_file", "torch.jit.load",
    "torch.export.load", "torch.package.PackageImporter", "torch.serialization.add_safe_globals",
    "torch.serialization.safe_globals", "torch.serialization._legacy_load", "torch.utils.model_zoo.load_url",
    "safetensors.torch.load_model", "numpy.lib.npyio.NpzFile", "numpy.lib.format.read_array",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
"""By their full names, whatever they were imported as. `safetensors.torch.load_model` falls back to nothing unsafe, but
loads into a model and hides which tensors were missing."""
FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle", "torch.hub"}
"""Of no use but to read what is forbidden."""
FORBIDDEN_WORDS = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
"""A variable that would take the restriction away."""

ALLOWED = {
    ("src/thriftnet/data/safe_pickle.py", "pickle.Unpickler"): "the base of the reader with a closed table of names",
    ("tests/data/test_safe_pickle.py", "pickle.loads"): "shows that the attacks are real, on pickles made there",
    (
        "tests/training/test_unsafe_states.py",
        "torch.load without weights_only=True",
    ): "shows the same, on states made there",
    ("tests/training/test_unsafe_states.py", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"): "is set in vain there",
    ("tests/test_no_unsafe_readers.py", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"): "is what is searched for",
    **dict.fromkeys(
        [("tests/data/test_safe_pickle.py", name) for name in ("eval", "exec", "__import__", "os.system")]
        + [("tests/test_bad_input.py", "os.system")],
        "named in a pickle that must be refused, never called",
    ),
}
OTHER_NAMES_OF = {"np": "numpy", "numpy.lib.npyio.load": "numpy.load", "torch.serialization.load": "torch.load"}


def findings(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of everything forbidden in a source file."""
    tree = ast.parse(source)
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                if alias.name in FORBIDDEN_MODULES:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                imported[alias.asname or alias.name] = full
                if full in FORBIDDEN_NAMES or node.module in FORBIDDEN_MODULES or full in FORBIDDEN_MODULES:
                    yield node.lineno, full
                if alias.name == "*" and any(name.startswith(f"{node.module}.") for name in FORBIDDEN_NAMES):
                    yield node.lineno, full
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = full_name(node, imported)
            if name in FORBIDDEN_NAMES:
                yield node.lineno, name
        elif isinstance(node, ast.Constant) and node.value in FORBIDDEN_WORDS:
            yield node.lineno, str(node.value)
        if isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in bad_call(node, imported))


def full_name(node: ast.expr, imported: dict[str, str]) -> str:
    """`pickle.loads` of `p.loads` after `import pickle as p`; builtins by their own names."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    name = ".".join([imported.get(node.id, node.id), *reversed(parts)]).removeprefix("builtins.")
    first, _, rest = name.partition(".")
    name = f"{OTHER_NAMES_OF.get(first, first)}.{rest}" if rest else name
    return OTHER_NAMES_OF.get(name, name)


def bad_call(call: ast.Call, imported: dict[str, str]) -> Iterator[str]:
    name = full_name(call.func, imported)
    given = {keyword.arg: keyword.value for keyword in call.keywords}

    def says(argument: str, value: object) -> bool:
        constant = given.get(argument)
        return isinstance(constant, ast.Constant) and constant.value is value

    if name == "torch.load" and (not says("weights_only", True) or "pickle_module" in given or None in given):
        yield "torch.load without weights_only=True"
    if name == "numpy.load" and (("allow_pickle" in given and not says("allow_pickle", False)) or None in given):
        yield "numpy.load with allow_pickle"
    if name == "numpy.load" and len(call.args) > 2:
        yield "numpy.load with allow_pickle"
    if "shell" in given and not says("shell", False):
        yield "shell=True"
    if name in ("getattr", "operator.attrgetter", "importlib.import_module"):
        words = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if {"eval", "exec", "loads", "Unpickler", "system"} & {str(word) for word in words}:
            yield f"{name} of {words}"
        if name == "importlib.import_module" and {"marshal", "shelve", "pickle", "dill"} & {
            str(word) for word in words
        }:
            yield f"{name} of {words}"


def test_nothing_in_the_sources_reads_what_can_run_code() -> None:
    found: dict[tuple[str, str], list[int]] = {}
    for folder in SEARCHED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, what in findings(path.read_text(encoding="utf-8")):
                found.setdefault((path.relative_to(ROOT).as_posix(), what), []).append(line)
    assert {place: lines for place, lines in found.items() if place not in ALLOWED} == {}
    assert set(ALLOWED) - set(found) == set(), "allowed without need"


PLANTED = {
    "pickle.loads(content)": "import pickle\npickle.loads(content)",
    "another name": "import pickle as p\nvalue = p.load(file)",
    "from-import": "from pickle import loads as read\nread(content)",
    "a reader of one's own": "import pickle\nclass Mine(pickle.Unpickler): ...",
    "passed on": "import pickle\nread = pickle.loads\nread(content)",
    "the C module": "import _pickle\n_pickle.loads(content)",
    "all of pickle": "from pickle import *",
    "dill": "import dill",
    "joblib": "import joblib\njoblib.load(path)",
    "cloudpickle": "from cloudpickle import loads",
    "marshal": "import marshal",
    "shelve": "import shelve",
    "yaml.load": "import yaml\nyaml.load(text)",
    "yaml.unsafe_load": "from yaml import unsafe_load",
    "eval": "eval(text)",
    "exec": "exec(text)",
    "eval by its module": "import builtins\nbuiltins.eval(text)",
    "eval passed on": "list(map(eval, texts))",
    "eval by getattr": "import builtins\ngetattr(builtins, 'eval')(text)",
    "compile": "compile(text, 'x', 'exec')",
    "__import__": "__import__('os').remove(path)",
    "torch.load": "import torch\ntorch.load(path)",
    "torch.load, unrestricted": "import torch\ntorch.load(path, weights_only=False)",
    "torch.load, by a variable": "import torch\ntorch.load(path, weights_only=safe)",
    "torch.load, by another reader": "import torch\ntorch.load(path, weights_only=True, pickle_module=mine)",
    "torch.load, with unseen arguments": "import torch\ntorch.load(path, weights_only=True, **more)",
    "torch.load, imported": "from torch import load\nload(path)",
    "torch.load, by another module": "import torch\ntorch.serialization.load(path)",
    "torch.load, allowed more": "import torch\ntorch.serialization.add_safe_globals([Mine])",
    "torch.load, by the environment": "import os\nos.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'",
    "torch.jit.load": "import torch\ntorch.jit.load(path)",
    "torch.export.load": "import torch\ntorch.export.load(path)",
    "torch.hub": "import torch\ntorch.hub.load('owner/name', 'model')",
    "torch.hub, imported": "from torch.hub import load_state_dict_from_url",
    "np.load": "import numpy as np\nnp.load(path, allow_pickle=True)",
    "np.load, by a variable": "import numpy as np\nnp.load(path, allow_pickle=objects)",
    "np.load, by position": "import numpy as np\nnp.load(path, None, True)",
    "np.load, imported": "from numpy import load\nload(path, allow_pickle=True)",
    "read_pickle": "import pandas as pd\npd.read_pickle(path)",
    "a shell": "import subprocess\nsubprocess.run(command, shell=True)",
    "a shell, imported": "from subprocess import Popen\nPopen(command, shell=flag)",
    "os.system": "import os\nos.system(command)",
    "os.popen": "from os import popen",
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_check_finds_what_is_planted(name: str) -> None:
    assert list(findings(PLANTED[name]))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(file, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)",
        "import pickle\npickle.dumps(value)",
        "network.eval()\nself.model.eval()",
        "import json\njson.loads(text)\ntomllib.load(file)",
        "import subprocess\nsubprocess.run(command, check=True)",
        "# eval(x)\ntext = 'pickle.loads(x)'",
        "import re\nre.compile('x')\ntorch.compile(network)",
        "from safetensors.torch import load\nload(content)",
    ],
)
def test_what_is_safe_is_left_alone(source: str) -> None:
    assert list(findings(source)) == []
