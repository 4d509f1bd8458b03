"""The bundled default: scikit-learn's 1,797 real handwritten digits (Alpaydin and Kaynak 1998), as 32x32 images.

Each 8x8 image of counts 0 to 16 is scaled to 0 to 255 and enlarged bicubically. A stratified fifth (359 images) is the
test split, the same whatever a run's seed.
"""

from __future__ import annotations

import numpy as np
import torch

from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.decode import convert_all
from thriftnet.data.splits import carve_test

SIDE = 32


class DigitsSource(Source):
    """1,438 training and 359 test images, uint8 [N, 1, 32, 32] unless another side is asked for."""

    format = "digits"
    location = "digits"
    class_names = tuple("0123456789")
    carved_test = True

    def __init__(self, image_side: int | None = None) -> None:
        self._side = image_side or SIDE

    def train(self) -> LabelledImages:
        """The training split."""
        everything = self._everything()
        return everything.select(carve_test(everything.labels)[0])

    def test(self) -> LabelledImages:
        """The test split."""
        everything = self._everything()
        return everything.select(carve_test(everything.labels)[1])

    def _everything(self) -> LabelledImages:
        from sklearn.datasets import load_digits  # half a second, and only this source needs it

        pixels, labels = load_digits(return_X_y=True)
        small = np.rint(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        return LabelledImages(convert_all(torch.from_numpy(small), 1, self._side), torch.from_numpy(labels).long())
