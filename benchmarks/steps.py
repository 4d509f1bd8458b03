"""Training steps of one recipe on random images, for benchmarks that compare two ways of computing one step.

What the product reaches as a whole is measured by `benchmarks.throughput` instead.
"""

from __future__ import annotations

import time

import torch

from thriftnet import runtime as runtimes
from thriftnet.augment.draws import Draws
from thriftnet.augment.policy import build_policy
from thriftnet.config import RecipeConfig, RuntimeConfig
from thriftnet.data.normalize import normalize
from thriftnet.models.build import build_model
from thriftnet.optim.build import build_optimizer
from thriftnet.training.step import Learner, train_step

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
