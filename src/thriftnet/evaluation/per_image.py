"""What a network said of every single image: what comparisons on the same images need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from thriftnet.errors import RunFolderError, escaped
from thriftnet.storage import parse_json

_TENSORS = {"labels": torch.int32, "predicted": torch.int32, "true_class_probability": torch.float32}
_TEXTS = ("location", "images_sha256", "weights_sha256")


@dataclass(frozen=True)
class PerImageResults:
    """One network on one split, N images in the split's order; 12 bytes an image on disk."""

    labels: Tensor
    """int32 [N]."""
    predicted: Tensor
    """int32 [N]."""
    true_class_probability: Tensor
    """float32 [N]: the probability that the network gave the right class."""
    location: str
    """Where the data lay."""
    images_sha256: str
    """Of pixels and labels in their order (`data.statistics.fingerprint`): equal only for the same images."""
    weights_sha256: str
    """Of the file of weights: whether the network is still the one that was measured."""

    @property
    def correct(self) -> Tensor:
        """bool [N]."""
        return self.predicted == self.labels

    def encoded(self) -> bytes:
        """As a safetensors file."""
        tensors = {name: getattr(self, name).to(kind).contiguous() for name, kind in _TENSORS.items()}
        return save(tensors, {name: escaped(getattr(self, name)) for name in _TEXTS})


def decode_per_image(content: bytes, path: Path) -> PerImageResults:
    """Read what `PerImageResults.encoded` gave. Raises RunFolderError, naming `path`, for a damaged file."""
    remedy = f"evaluate again: thriftnet evaluate {quote(str(path.parent))}"
    try:
        tensors = load(content)
        # Where the metadata are is not in safetensors' interface for bytes: the header is JSON after its length.
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        texts = {name: str(header["__metadata__"][name]) for name in _TEXTS}
        tensors = {name: tensors[name] for name in _TENSORS}
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); delete it and {remedy}") from None
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    if kinds != _TENSORS:
        raise RunFolderError(f"{path} is damaged (its columns are of other types); delete it and {remedy}")
    shapes = {tuple(tensor.shape) for tensor in tensors.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise RunFolderError(f"{path} is damaged (its columns differ in length); delete it and {remedy}")
    columns = {name: tensors[name] for name in _TENSORS}
    return PerImageResults(**columns, **texts)  # type: ignore[arg-type]
