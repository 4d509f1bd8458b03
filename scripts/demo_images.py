"""Write a few handwritten digits as PNG files, so that the demo has images to predict.

python scripts/demo_images.py FOLDER
"""

import argparse
from pathlib import Path

from PIL import Image

from thriftnet.data.digits import DigitsSource

COUNT = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    images = DigitsSource(None).test().images[:COUNT]
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"digit-{index:02d}.png")
    print(f"{len(images)} images in {folder}")


if __name__ == "__main__":
    main()
