"""The baseline: training as the papers and the well-known tutorial repositories write it.

A Dataset hands out Pillow images, transforms work on one image at a time, a DataLoader with 0, 1 or 2 workers collects
them; the network is the plain one, in fp32 and the contiguous layout, eager; torch's optimiser as it comes;
`loss.item()` at every step. Transforms follow torchvision's definitions (which draws, which Pillow function, in which
order), so that the baseline does what the recipe asks for, image by image.

The rate is not scheduled: that costs nothing and changes no time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from benchmarks.common import RandomImages, Row, parser, rows_first, run_main, run_worker, serve, wait_for
from thriftnet import config
from thriftnet import recipe as recipes
from thriftnet.config import AugmentConfig, RecipeConfig
from thriftnet.errors import UserError
from thriftnet.models.build import build_model
from thriftnet.optim.perturbation import adversarial_gradient

IMAGES = 50_000
"""As many as CIFAR-10 has, so that a new epoch, which starts the workers anew, is as rare as it is there."""
LONGEST_DISCARD_S = 2.0

Picture = Any  # a Pillow image, or after to_tensor float32 [C, H, W]


class Transform(Protocol):
    """One operation on one image: what to do is drawn first, then done."""

    def draw(self, width: int, height: int) -> Any:
        """The parameters; None: the image stays as it is."""

    def apply(self, image: Picture, drawn: Any) -> Picture:
        """The image changed as `drawn` says."""


def uniform(low: float, high: float) -> float:
    return torch.empty(1).uniform_(low, high).item()


def whole(below: int) -> int:
    return int(torch.randint(0, below, (1,)).item())


def chosen(probability: float) -> bool:
    return bool(torch.rand(1) < probability)


def level(image: Image.Image, fill: float) -> Any:
    """A fill in [0, 1] as Pillow wants it for this image."""
    value = round(fill * 255)
    return value if image.mode == "L" else (value,) * len(image.getbands())


@dataclass(frozen=True)
class Flip:
    settings: config.HorizontalFlip | config.VerticalFlip

    def draw(self, width: int, height: int) -> Any:
        return chosen(self.settings.probability) or None

    def apply(self, image: Picture, drawn: Any) -> Picture:
        horizontal = isinstance(self.settings, config.HorizontalFlip)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT if horizontal else Image.Transpose.FLIP_TOP_BOTTOM)


@dataclass(frozen=True)
class PaddedCrop:
    settings: config.PaddedCrop

    def draw(self, width: int, height: int) -> Any:
        places = 2 * self.settings.pad_px + 1
        return whole(places), whole(places)

    def apply(self, image: Picture, drawn: Any) -> Picture:
        left, top = drawn
        pad_px = self.settings.pad_px
        if self.settings.padding == "constant":
            padded = ImageOps.expand(image, border=pad_px, fill=level(image, self.settings.fill))
        else:
            pixels = np.asarray(image)
            sides = ((pad_px, pad_px), (pad_px, pad_px)) + ((0, 0),) * (pixels.ndim - 2)
            padded = Image.fromarray(np.pad(pixels, sides, mode="reflect"))
        return padded.crop((left, top, left + image.width, top + image.height))


@dataclass(frozen=True)
class Rotation:
    settings: config.Rotation

    def draw(self, width: int, height: int) -> Any:
        return uniform(-self.settings.degrees, self.settings.degrees)

    def apply(self, image: Picture, drawn: Any) -> Picture:
        return image.rotate(drawn, resampling(self.settings.interpolation), fillcolor=level(image, self.settings.fill))


@dataclass(frozen=True)
class Affine:
    settings: config.Affine

    def draw(self, width: int, height: int) -> Any:
        """Degrees counter-clockwise, factor, columns to the right, rows down."""
        settings = self.settings
        return (
            uniform(-settings.degrees, settings.degrees),
            uniform(*settings.scale),
            round(uniform(-settings.translate * width, settings.translate * width)),
            round(uniform(-settings.translate * height, settings.translate * height)),
        )

    def apply(self, image: Picture, drawn: Any) -> Picture:
        degrees, scale, dx, dy = drawn
        cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
        x, y = image.width / 2 + dx, image.height / 2 + dy
        seen_at = (cos, -sin, image.width / 2 - cos * x + sin * y, sin, cos, image.height / 2 - sin * x - cos * y)
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            seen_at,
            resampling(self.settings.interpolation),
            fillcolor=level(image, self.settings.fill),
        )


@dataclass(frozen=True)
class RandomResizedCrop:
    settings: config.RandomResizedCrop

    def draw(self, width: int, height: int) -> Any:
        """Left, top, width, height of the window."""
        low, high = self.settings.ratio
        for _ in range(10):
            area = width * height * uniform(*self.settings.scale)
            ratio = math.exp(uniform(math.log(low), math.log(high)))
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                return whole(width - wide + 1), whole(height - tall + 1), wide, tall
        ratio = min(max(width / height, low), high)
        wide, tall = min(width, round(height * ratio)), min(height, round(width / ratio))
        return (width - wide) // 2, (height - tall) // 2, wide, tall

    def apply(self, image: Picture, drawn: Any) -> Picture:
        left, top, wide, tall = drawn
        window = image.crop((left, top, left + wide, top + tall))
        return window.resize(image.size, Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class ColorJitter:
    settings: config.ColorJitter

    def draw(self, width: int, height: int) -> Any:
        """(name, factor or turns) in the order in which they are applied."""
        drawn = [
            (name, uniform(max(0.0, 1 - strength), 1 + strength))
            for name in ("brightness", "contrast", "saturation")
            if (strength := getattr(self.settings, name)) > 0
        ]
        if self.settings.hue > 0:
            drawn.append(("hue", uniform(-self.settings.hue, self.settings.hue)))
        return [drawn[place] for place in torch.randperm(len(drawn)).tolist()]

    def apply(self, image: Picture, drawn: Any) -> Picture:
        for name, value in drawn:
            image = turned(image, value) if name == "hue" else ENHANCERS[name](image).enhance(value)
        return image


ENHANCERS: dict[str, Callable[[Image.Image], Any]] = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def turned(image: Image.Image, turns: float) -> Image.Image:
    """The hue shifted by whole levels of 256; gray images have none."""
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.asarray(hue).astype(np.int16) + int(turns * 255)) % 256
    merged = Image.merge("HSV", (Image.fromarray(shifted.astype(np.uint8)), saturation, value))
    return merged.convert(image.mode)


@dataclass(frozen=True)
class GaussianBlur:
    settings: config.GaussianBlur

    def draw(self, width: int, height: int) -> Any:
        return uniform(*self.settings.sigma_px) if chosen(self.settings.probability) else None

    def apply(self, image: Picture, drawn: Any) -> Picture:
        reach = self.settings.kernel_px // 2
        line = torch.exp(-0.5 * (torch.linspace(-reach, reach, self.settings.kernel_px) / drawn).pow(2))
        line = line / line.sum()
        pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1).float()
        kernel = (line[:, None] * line).expand(len(pixels), 1, -1, -1)
        padded = functional.pad(pixels[None], [reach] * 4, mode="reflect")
        blurred = functional.conv2d(padded, kernel, groups=len(pixels))[0].round().to(torch.uint8)
        return Image.fromarray(blurred.permute(1, 2, 0).squeeze(2).numpy())


@dataclass(frozen=True)
class Cutout:
    """On the tensor, as its authors' code does."""

    settings: config.Cutout
    fill: tuple[float, ...]

    def draw(self, width: int, height: int) -> Any:
        if not chosen(self.settings.probability):
            return None
        return [(whole(height), whole(width)) for _ in range(self.settings.holes)]

    def apply(self, image: Picture, drawn: Any) -> Picture:
        height, width = image.shape[1:]
        mask = np.ones((height, width), np.float32)
        side_px = self.settings.side_px
        for row, column in drawn:
            top, left = row - side_px // 2, column - side_px // 2
            mask[max(top, 0) : max(top + side_px, 0), max(left, 0) : max(left + side_px, 0)] = 0.0
        kept = torch.from_numpy(mask).expand_as(image)
        return image * kept + torch.tensor(self.fill)[:, None, None] * (1 - kept)


def resampling(interpolation: str) -> Image.Resampling:
    return Image.Resampling.NEAREST if interpolation == "nearest" else Image.Resampling.BILINEAR


TRANSFORMS: dict[type, Callable[[Any], Transform]] = {
    config.HorizontalFlip: Flip,
    config.VerticalFlip: Flip,
    config.PaddedCrop: PaddedCrop,
    config.Rotation: Rotation,
    config.Affine: Affine,
    config.RandomResizedCrop: RandomResizedCrop,
    config.ColorJitter: ColorJitter,
    config.GaussianBlur: GaussianBlur,
}


def build_transforms(augment: AugmentConfig, mean: Sequence[float]) -> list[Transform]:
    """The recipe's list, one transform an operation. Raises UserError for one that has no per-image form here."""
    made: list[Transform] = []
    for settings in augment.ops:
        if isinstance(settings, config.Cutout):
            made.append(Cutout(settings, tuple(mean) if settings.fill is None else settings.fill))
        elif type(settings) not in TRANSFORMS:
            raise UserError(f"the baseline has no per-image form of augment.ops' {settings.op}; leave the recipe out")
        elif made and isinstance(made[-1], Cutout):
            raise UserError(f"the baseline cuts out last, but {settings.op} follows cutout; leave the recipe out")
        else:
            made.append(TRANSFORMS[type(settings)](settings))
    return made


def to_tensor(image: Image.Image) -> Tensor:
    """float32 [C, H, W] in [0, 1], copied row-first to channel-first as torchvision does."""
    pixels = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(image.height, image.width, -1)
    return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class Images(Dataset[tuple[Tensor, int]]):
    """`pixels` uint8 [N, H, W, C] and a label each; an item is augmented, a tensor, normalised."""

    def __init__(
        self,
        pixels: np.ndarray[Any, Any],
        labels: Sequence[int],
        transforms: Sequence[Transform],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.pixels, self.labels, self.transforms, self.mean, self.std = pixels, labels, transforms, mean, std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.pixels[index]
        image: Picture = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        for transform in self.transforms:
            if isinstance(transform, Cutout) and isinstance(image, Image.Image):
                image = to_tensor(image)
            drawn = transform.draw(pixels.shape[1], pixels.shape[0])
            if drawn is not None:
                image = transform.apply(image, drawn)
        tensor = image if isinstance(image, Tensor) else to_tensor(image)
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        return tensor.clone().sub_(mean).div_(std), self.labels[index]


def build_loader(
    augment: AugmentConfig,
    pixels: np.ndarray[Any, Any],
    labels: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    workers: int,
) -> DataLoader[tuple[Tensor, int]]:
    """The DataLoader of a recipe; where it shows originals and copies, two data sets behind one another."""
    images: Dataset[tuple[Tensor, int]] = Images(pixels, labels, build_transforms(augment, mean), mean, std)
    if augment.concatenate_originals:
        images = ConcatDataset([Images(pixels, labels, [], mean, std), images])
    return DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=workers)


KNOWN: dict[str, set[str]] = {
    "augment": {"ops", "concatenate_originals"},
    "optimizer": {"name", "lr", "momentum", "nesterov", "betas", "eps", "weight_decay", "clip_value", "clip_norm"},
    "training": {
        "epochs",
        "batch_size",
        "drop_last",
        "evaluation_batch_size",
        "seed",
        "split_seed",
        "label_smoothing",
        "selection",
    },
    "perturbation": {"name", "epsilon", "inner_steps", "inner_lr", "batchnorm"},
}
"""What the baseline does; a recipe with anything else has no baseline, rather than one that does less."""
OPTIMIZERS = ("sgd", "adam", "adamw")


def unsupported(recipe: RecipeConfig) -> str | None:
    """Why the baseline cannot train this recipe as it is; None where it can."""
    changed = recipe.model_dump(exclude_defaults=True)
    for section, known in KNOWN.items():
        strange = sorted(set(changed.get(section) or {}) - known)
        if strange:
            return f"the baseline knows no {section}.{strange[0]}"
    if recipe.optimizer.name not in OPTIMIZERS:
        return f"the baseline knows no optimizer.name = {recipe.optimizer.name!r}"
    perturbation = (changed.get("perturbation") or {}).get("name", "amp")
    if perturbation != "amp":
        return f"the baseline knows no perturbation.name = {perturbation!r}"
    try:
        build_transforms(recipe.augment, (0.5, 0.5, 0.5))
    except UserError as error:
        return str(error)
    return None


def build_optimizer(network: nn.Module, settings: config.OptimizerConfig) -> torch.optim.Optimizer:
    """torch's optimiser with its own default of kernel (on the CPU one parameter after the other)."""
    if settings.name == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(
        network.parameters(),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


class Baseline:
    """One recipe's training loop; `pixels` uint8 [N, H, W, C]."""

    def __init__(
        self,
        recipe: RecipeConfig,
        pixels: np.ndarray[Any, Any],
        labels: Sequence[int],
        workers: int,
        device: torch.device,
    ) -> None:
        reason = unsupported(recipe)
        if reason is not None:
            raise UserError(f"{recipe.name}: {reason}; leave the recipe out")
        self.recipe, self.workers, self.device = recipe, workers, device
        statistics = ((0.5,) * pixels.shape[-1], (0.25,) * pixels.shape[-1])
        self.loader = build_loader(recipe.augment, pixels, labels, *statistics, recipe.training.batch_size, workers)
        torch.manual_seed(0)
        self.network = build_model(recipe.model, pixels.shape[-1], max(labels) + 1, recipe.name).to(device).train()
        self.criterion = nn.CrossEntropyLoss(label_smoothing=recipe.training.label_smoothing)
        self.optimizer = build_optimizer(self.network, recipe.optimizer)
        self.running_loss, self.correct, self.total = 0.0, 0, 0
        self.batches = self._endless()

    def step(self) -> None:
        """One batch from the loader, one update."""
        images, labels = next(self.batches)
        images, labels = images.to(self.device), labels.to(self.device)
        outputs: list[Tensor] = []

        def compute_gradient() -> Tensor:
            self.optimizer.zero_grad()
            outputs.append(self.network(images))
            loss: Tensor = self.criterion(outputs[-1], labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        if self.recipe.perturbation is None:
            loss = compute_gradient()
        else:
            loss = adversarial_gradient(self.network, self.recipe.perturbation, compute_gradient)
        settings = self.recipe.optimizer
        if settings.clip_value is not None:
            nn.utils.clip_grad_value_(self.network.parameters(), settings.clip_value)
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        self.optimizer.step()
        self.running_loss += loss.item()
        self.correct += int(outputs[0].argmax(1).eq(labels).sum().item())
        self.total += len(labels)

    def round(self, steps: int) -> Row:
        """Images and seconds of `steps` steps, in the state that lasts: what workers prepared in a pause is used up."""
        started = time.perf_counter()
        for _ in range(2 * self.workers + 1):  # each worker keeps two batches ready
            self.step()
            if time.perf_counter() - started > LONGEST_DISCARD_S:
                break  # with steps as long as that the loader is not what is waited for
        wait_for(self.device)
        started = time.perf_counter()
        for _ in range(steps):
            self.step()
        wait_for(self.device)
        return {"steps": steps, "seconds": time.perf_counter() - started}

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader


def work(arguments: Row) -> None:
    """A worker: {recipe, workers, threads, steps, device} -> rounds."""
    torch.set_num_threads(arguments["threads"])
    recipe = recipes.load(arguments["recipe"], ["optimizer.lr=0.0001"])  # random labels must not diverge
    data = RandomImages(IMAGES, recipe.data.image_side or 32).train()
    baseline = Baseline(
        recipe, rows_first(data.images), data.labels.tolist(), arguments["workers"], torch.device(arguments["device"])
    )
    baseline.step()
    serve({}, lambda: baseline.round(arguments["steps"]))


def main() -> None:
    options = parser(__doc__, "baseline")
    run_worker(work, options.parse_args().worker or options.error("it is started by benchmarks.throughput"))


if __name__ == "__main__":
    run_main(main)
