"""Images per second in training: fp32 contiguous as the papers ran it, against the automatic choice.

    python benchmarks/training_throughput.py [--recipes NAME ...] [--rounds 5] [--out FILE]

Each number is the whole step of the product on images in memory: gather, augmentation, normalisation, forward, backward
(two of each for AMP), update. Both sides take turns in one process, so that a machine that slows down slows both. The
median over the rounds and the median of the ratios round by round are printed and stored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.augment.draws import Draws
from thriftnet.augment.policy import build_policy
from thriftnet.config import RecipeConfig, RuntimeConfig
from thriftnet.data.normalize import normalize
from thriftnet.models.build import build_model
from thriftnet.optim.build import build_optimizer
from thriftnet.training.step import Learner, train_step

SIDES = {
    "fp32 as the papers ran it": RuntimeConfig(precision="fp32", channels_last="no", kernels="no"),
    "automatic choice": RuntimeConfig(),
}
WARMUP_STEPS = 2
IMAGES = 2048


class Trainer:
    """One recipe under one runtime, on random images of CIFAR-10's shape."""

    def __init__(self, recipe: RecipeConfig, config: RuntimeConfig) -> None:
        self.recipe, self.runtime = recipe, runtimes.resolve(config)
        runtimes.seed_everything(0, 0)
        network = self.runtime.place(build_model(recipe.model))
        device = self.runtime.device
        self.images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8).to(device)
        self.labels = torch.randint(0, 10, (IMAGES,)).to(device)
        self.policy = build_policy(recipe.augment, (0.5, 0.5, 0.5))
        self.learner = Learner(
            network=network.train(),
            optimizer=build_optimizer(network, recipe.optimizer, device),
            optimizer_config=recipe.optimizer,
            perturbation=recipe.perturbation,
            label_smoothing=recipe.training.label_smoothing,
            average=None,
            scaler=torch.amp.GradScaler(device.type, enabled=self.runtime.precision == "fp16"),
            runtime=self.runtime,
        )
        self.steps = 0

    def run(self, steps: int) -> float:
        """Images per second over `steps` steps."""
        started = time.perf_counter()
        for _ in range(steps):
            self._step()
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize()
        return steps * self.recipe.training.batch_size / (time.perf_counter() - started)

    def _step(self) -> None:
        size = self.recipe.training.batch_size
        indices = (torch.arange(size) + self.steps * size) % IMAGES
        indices = indices.to(self.runtime.device)
        images = self.policy(self.images[indices], Draws(0, self.steps, indices))
        images = normalize(images, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        train_step(self.learner, images.contiguous(memory_format=self.runtime.memory_format), self.labels[indices])
        self.steps += 1


def measure(recipe: RecipeConfig, rounds: int, steps: int) -> dict[str, object]:
    trainers = {side: Trainer(recipe, config) for side, config in SIDES.items()}
    for trainer in trainers.values():
        trainer.run(WARMUP_STEPS)
    speeds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, trainer in trainers.items():
            speeds[side].append(trainer.run(steps))
    slow, fast = SIDES
    return {
        "recipe": recipe.name,
        "batch_size": recipe.training.batch_size,
        "images_per_s": {side: round(statistics.median(values), 1) for side, values in speeds.items()},
        "all_images_per_s": {side: [round(value, 1) for value in values] for side, values in speeds.items()},
        "ratio": round(statistics.median(b / a for a, b in zip(speeds[slow], speeds[fast], strict=True)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    papers = [name for name in recipes.names() if recipes.load(name).paper]
    parser.add_argument("--recipes", nargs="+", default=papers)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps a round")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training-throughput.json")
    arguments = parser.parse_args()
    environments = {side: runtimes.environment(runtimes.resolve(config)) for side, config in SIDES.items()}
    automatic = environments["automatic choice"]
    print(f"{automatic['device_name']}, {automatic['threads']} threads, torch {automatic['packages']['torch']}")
    print(f"automatic choice: {automatic['precision']}, channels-last {automatic['channels_last']}")
    print(f"images/s, medians of {arguments.rounds} rounds")
    print(f"{'recipe':<28} {'batch':>5} {'fp32':>9} {'automatic':>9} {'ratio':>6}")
    rows = []
    for name in arguments.recipes:
        row = measure(recipes.load(name), arguments.rounds, arguments.steps)
        rows.append(row)
        slow, fast = row["images_per_s"].values()  # type: ignore[attr-defined]
        print(f"{name:<28} {row['batch_size']:>5} {slow:>9,.0f} {fast:>9,.0f} {row['ratio']:>6}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    stored = {"rounds": arguments.rounds, "steps_a_round": arguments.steps, "environments": environments, "rows": rows}
    arguments.out.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
