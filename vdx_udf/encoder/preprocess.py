"""What a model sees of a picture: open_clip's resize and crop, the common case by a kernel that is four times as fast."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from vdx_udf.encoder.regions import Level


class Preprocess:
    """From a picture to pixels; `mean` and `std`, which open_clip applies next, are left to the tower.

    `size` is the model's (height, width), `side` the longer of them; `description` says in one line what is done to a picture.
    """

    def __init__(self, config: dict):
        known = PreprocessCfg(**config)
        self.size = (known.size, known.size) if isinstance(known.size, int) else tuple(known.size)
        self.side = max(self.size)
        self.mean, self.std = known.mean, known.std
        steps = image_transform_v2(known, is_train=False).transforms
        self._steps = steps[: next(number for number, step in enumerate(steps) if isinstance(step, MaybeToTensor))]
        self._common = (
            known.resize_mode == "shortest"
            and len(set(self.size)) == 1
            and known.interpolation in ("bicubic", "bilinear")
        )  # fmt: skip
        self._mode = "bilinear" if known.interpolation == "bilinear" else "bicubic"
        mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (known.mean, known.std))
        height, width = self.size
        self.description = f"{height}x{width} {known.resize_mode} {known.interpolation}, mean {mean}, std {std}"

    def __call__(self, image: Image.Image) -> Tensor:
        """uint8 (3, height, width): open_clip's, for RGB within two levels and a quarter of one on average."""
        if self._common and image.mode == "RGB":
            return self._resized(_tensor(image))
        for step in self._steps:
            image = step(image)
        return _contiguous(_tensor(image))

    def tiles(self, image: Image.Image, levels: list[Level]) -> Iterator[Tensor]:
        """The same of each level's squares, which are of `side` pixels: the picture is resized once a level."""
        pixels = _tensor(image.convert("RGB"))
        for level in levels:
            resized = F.interpolate(pixels[None], size=(level.height, level.width), mode=self._mode, antialias=True)[0]
            for top, left in level.corners:
                tile = resized[:, top : top + self.side, left : left + self.side]
                is_seen_whole = self.size == (self.side, self.side)
                yield _contiguous(tile) if is_seen_whole else self(Image.fromarray(tile.permute(1, 2, 0).numpy()))

    def _resized(self, pixels: Tensor) -> Tensor:
        """The centre square after the shorter side became `size`, rounded as torchvision's Resize and CenterCrop do."""
        side, lengths = self.size[0], pixels.shape[1:]
        full = [side if length == min(lengths) else int(side * length / min(lengths)) for length in lengths]
        if full != list(lengths):
            pixels = F.interpolate(pixels[None], size=full, mode=self._mode, antialias=True)[0]
        top, left = (round((length - side) / 2.0) for length in full)
        return _contiguous(pixels[:, top : top + side, left : left + side])


def _contiguous(pixels: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.numpy()))  # torch's own would start a team of threads here


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
