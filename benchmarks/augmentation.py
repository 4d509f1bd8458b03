"""Augmented images per second, operation by operation and for the papers' lists, and what `fused` changes in them.

Mixing and resizing, which follow the operations, are timed on float32 images.

    python benchmarks/augmentation.py [--data DATA] [--device cpu] [--threads 1] [--cpu-time] [--out FILE]

Timed from a uint8 batch in memory to float32 images in [0, 1], draws included. Exact and fused take turns, so that a
machine that slows down slows both; medians over the rounds. The difference is between the images of the two with the
same draws: its mean in levels of 255, and the share of pixels in which some channel differs by more than one level.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.augment import Draws, Policy, build_policy
from thriftnet.augment.colour import jitter
from thriftnet.augment.mixing import mix_batch
from thriftnet.augment.resizing import resize
from thriftnet.config import AugmentConfig, MixConfig, RuntimeConfig
from thriftnet.data.open import open_source

SINGLE_OPERATIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "conversion alone": (),
    "horizontal_flip": ({"op": "horizontal_flip"},),
    "vertical_flip": ({"op": "vertical_flip"},),
    "padded_crop": ({"op": "padded_crop"},),
    "rotation nearest": ({"op": "rotation", "degrees": 5.0},),
    "rotation bilinear": ({"op": "rotation", "degrees": 5.0, "interpolation": "bilinear"},),
    "affine nearest": ({"op": "affine", "translate": 0.1},),
    "random_resized_crop": ({"op": "random_resized_crop"},),
    "color_jitter, no hue": ({"op": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},),
    "color_jitter": ({"op": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},),
    "gaussian_blur": ({"op": "gaussian_blur"},),
    "cutout": ({"op": "cutout"},),
    "alternating_flip": ({"op": "alternating_flip"},),
    "trivial_augment": ({"op": "trivial_augment"},),
    "trivial_augment bilinear": ({"op": "trivial_augment", "interpolation": "bilinear"},),
    "rand_augment": ({"op": "rand_augment"},),
}
RESIZED_SIDE_PX = 16
PAPERS = ("ramavath-resnet9", "liu-4x2", "xu-resnet18", "li-resnet")
WARMUP_ROUNDS = 3
COMPARED_IMAGES = 2_000


def policies(augment: AugmentConfig, channels: int) -> dict[str, Policy]:
    """The list both ways."""
    mean = (0.5,) * channels
    fused = augment.model_copy(update={"geometry": "fused"})
    return {"exact": build_policy(augment, mean), "fused": build_policy(fused, mean)}


def images_per_second(
    augment: AugmentConfig, images: Tensor, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    sides = policies(augment, images.shape[1])
    indices = torch.arange(len(images), device=images.device)
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(WARMUP_ROUNDS + rounds):
        for side, policy in sides.items():
            _wait_for(images.device)
            started = clock()
            policy(images, Draws(0, number, indices))
            _wait_for(images.device)
            if number >= WARMUP_ROUNDS:
                speeds[side].append(len(images) / (clock() - started))
    return {side: statistics.median(values) for side, values in speeds.items()}


def later_images_per_second(images: Tensor, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Mixing of a batch and resizing it, name by name."""
    fractions, indices = images / 255, torch.arange(len(images), device=images.device)
    labels = indices % 10
    configs = [MixConfig(name="mixup"), MixConfig(name="cutmix"), MixConfig(name="ricap")]

    def mixed(mix: MixConfig, step: int) -> object:
        return mix_batch(mix, fractions, labels, Draws(0, step, indices), step)

    calls: dict[str, Callable[[int], object]] = {mix.name: partial(mixed, mix) for mix in configs}
    calls[f"resized to {RESIZED_SIDE_PX}"] = lambda step: resize(fractions, RESIZED_SIDE_PX)
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(WARMUP_ROUNDS + rounds):
        for name, call in calls.items():
            _wait_for(images.device)
            started = clock()
            call(number)
            _wait_for(images.device)
            if number >= WARMUP_ROUNDS:
                speeds[name].append(len(images) / (clock() - started))
    return {name: statistics.median(values) for name, values in speeds.items()}


def fused_difference(augment: AugmentConfig, images: Tensor) -> dict[str, float]:
    draws = Draws(0, 0, torch.arange(len(images)))
    exact, fused = (policy(images, draws) for policy in policies(augment, images.shape[1]).values())
    apart = (exact - fused).abs()
    return {
        "mean_difference_levels": 255 * apart.mean().item(),
        "share_of_pixels": (apart > 1 / 255).any(dim=1).float().mean().item(),
    }


def pillow_difference(images: Tensor) -> dict[str, float]:
    """Colour jitter of 0.2, 0.2, 0.2 against Pillow's ImageEnhance with the same factors and order, in levels."""
    draws = Draws(0, 0, torch.arange(len(images)))
    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    factors = {name: 0.8 + 0.4 * draws.uniform(name)[:, 0] for name in enhancers}
    order = draws.permutations("order", len(factors))
    ours = jitter(images / 255, factors, order) * 255
    apart = []
    for row, names in enumerate([[list(factors)[place] for place in places] for places in order.tolist()]):
        image = Image.fromarray(images[row].permute(1, 2, 0).squeeze(2).numpy())
        for name in names:
            image = enhancers[name](image).enhance(factors[name][row].item())
        theirs = torch.from_numpy(np.array(image)).view(*images.shape[2:], -1).permute(2, 0, 1)
        apart.append((ours[row] - theirs).abs())
    differences = torch.stack(apart)
    return {"mean_levels": differences.mean().item(), "largest_levels": differences.max().item()}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="whose training images are taken")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cpu-time", action="store_true", help="per second of one core's time: for a busy machine")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "augmentation.json")
    arguments = parser.parse_args()
    runtime = runtimes.resolve(RuntimeConfig(device=arguments.device, threads=arguments.threads))
    environment = runtimes.environment(runtime)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    second = "second of CPU time" if arguments.cpu_time else "second"
    images = open_source(arguments.data).train().images
    batch, compared = images[: arguments.batch_size].to(runtime.device), images[:COMPARED_IMAGES]
    lists = {name: AugmentConfig.model_validate({"ops": ops}) for name, ops in SINGLE_OPERATIONS.items()}
    lists |= {f"list of {name}": recipes.load(name).augment for name in PAPERS}
    print(f"{environment['device_name']}, {environment['threads']} threads, torch {environment['packages']['torch']}")
    print(f"images a {second} at batches of {list(batch.shape)}, medians of {arguments.rounds} rounds")
    print(f"{'':<24} {'exact':>9} {'fused':>9} {'mean difference':>16} {'pixels over 1 level':>20}")
    rows = []
    for name, augment in lists.items():
        row: dict[str, Any] = {
            "name": name,
            "images_a_second": images_per_second(augment, batch, arguments.rounds, clock),
        }
        exact, fused = row["images_a_second"].values()
        line = f"{name:<24} {exact:>9,.0f}"
        if len(augment.ops) > 1:
            row |= fused_difference(augment, compared)
            line += f" {fused:>9,.0f} {row['mean_difference_levels']:>9.2f} levels {row['share_of_pixels']:>20.1%}"
        rows.append(row)
        print(line, flush=True)
    for name, speed in later_images_per_second(batch, arguments.rounds, clock).items():
        rows.append({"name": name, "images_a_second": {"exact": speed}})
        print(f"{name:<24} {speed:>9,.0f}", flush=True)
    pillow = pillow_difference(compared)
    print(f"colour jitter against Pillow: {pillow['mean_levels']:.2f} levels, at most {pillow['largest_levels']:.2f}")
    stored = {
        "batch": list(batch.shape),
        "rounds": arguments.rounds,
        "unit": f"images a {second}",
        "data": arguments.data if arguments.data == "digits" else Path(arguments.data).name,
        "compared_images": len(compared),
        "environment": environment,
        "rows": rows,
        "jitter_against_pillow": pillow,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
