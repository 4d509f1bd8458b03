"""torch.compile's form of a network, tried before it is trusted."""

from __future__ import annotations

import time

import torch
from torch import nn

from thriftnet.errors import RecipeError
from thriftnet.optim.undo import Kept
from thriftnet.runtime import Runtime


def compiled(
    network: nn.Module, runtime: Runtime, shape: tuple[int, int, int, int], required: bool
) -> tuple[nn.Module | None, str]:
    """(what to train, a line on it) after one forward and backward pass on zeros of `shape` [N, C, H, W].

    None: it does not work here. `network` and torch's generators stay as they are. Raises RecipeError where that should
    be so and compiling is `required`.
    """
    started = time.perf_counter()
    translated: nn.Module = torch.compile(network, dynamic=False)  # type: ignore[assignment]
    kept = Kept(list(network.buffers()))
    cuda = [runtime.device] if runtime.device.type == "cuda" else []
    try:
        # The generators of every other device would be saved, too, without the list.
        with torch.random.fork_rng(cuda):
            images = torch.zeros(shape, device=runtime.device).contiguous(memory_format=runtime.memory_format)
            network.train()
            with runtime.autocast():
                outputs = translated(images)
            outputs.float().sum().backward()
    except Exception as error:  # a compiler fails in more ways than can be named
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if required:
            raise RecipeError(
                f"runtime.compile = 'yes' is not possible here: {reason}; set runtime.compile = auto or no"
            ) from error
        return None, f"torch.compile off, training is slower: {reason}"
    finally:
        kept.put_back()
        for parameter in network.parameters():
            parameter.grad = None
    return translated, f"the network was compiled in {time.perf_counter() - started:.1f} s"
