"""Write a few handwritten digits as PNG files, so that the demo has images to predict: `demo_images.py FOLDER`."""

import sys
from pathlib import Path

from PIL import Image

from thriftnet.data.digits import DigitsSource

COUNT = 30

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
images = DigitsSource(None).test().images[:COUNT]
for index, image in enumerate(images):
    Image.fromarray(image[0].numpy()).save(folder / f"digit-{index:02d}.png")
print(f"{len(images)} images in {folder}")
