"""What a precision must pass before it is used: a model's vectors beside open_clip's own in float32, on texts and pictures
made for it.

What is measured to choose how numbers are rounded (`samples`) is other texts and pictures than those that judge (`inputs`).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_SENTENCES = (
    "a photo of two children who build a castle of sand at the sea while an old dog sleeps beside them in the shade of a boat",
    "Ein alter Mann füttert Enten am Weiher, und hinter ihm geht über den Dächern der kleinen Stadt langsam die Sonne unter",
    "une femme en manteau vert traverse le marché couvert, un panier de pêches à la main, pendant que la pluie tombe",
    "лошадь стоит у деревянного забора на краю заснеженного поля, а вдали над лесом поднимается дым из трубы старого дома",
    "ένα ψαροκάικο με μπλε πανιά περνά μπροστά από τον άσπρο φάρο και τα παιδιά στην προβλήτα το χαιρετούν με τα χέρια",
    "قطة سوداء تنام على نافذة مطبخ قديم وبجانبها إناء من الزهور الحمراء وفي الخارج يسقط المطر على شجرة الليمون",
    "ילדה קטנה מחזיקה בלון אדום ליד תחנת הרכבת ומאחוריה אנשים ממהרים עם מזוודות אל הרציף האחרון",
    "एक लाल साइकिल पुराने नीले दरवाज़े के सामने खड़ी है और उसकी टोकरी में ताज़े फूल और एक अख़बार रखा है",
    "ชายชราในเรือไม้ลำเล็กขายผลไม้ที่ตลาดน้ำ ตอนเช้าตรู่ มีหมอกบาง ๆ เหนือคลอง และ นกสีขาว บินผ่าน ต้นมะพร้าว ริมน้ำ อย่าง ช้า ๆ",
    "一位 穿 红色 外套 的 女孩 在 桥上 喂 鸽子, 桥下 的 河水 映着 黄昏 的 灯光, 远处 是 高楼 和 山",
    "雪の 積もった 庭で 柴犬が 二匹 走り回り、 縁側では おばあさんが 湯気の 立つ お茶を 飲んで いる 写真",
    "비 오는 저녁 골목길 포장마차 앞에서 노란 우산을 쓴 사람들이 뜨거운 어묵 국물을 나누어 마시고 있다",
    "🐕 🏖️ ☀️ two happy dogs!!! 😀😀 #beach @sunset 🌊🌊 ... 🏄‍♂️ 100 % ❤️ 🇫🇷 🇯🇵 best day ever 🎉🎉🎉 (again) 🐚",
    "IMG_20240317_184502.jpg f/2.8 1/250 s ISO 400 35 mm 6000 x 4000 px, 12.7 MB; GPS 47.3769 N, 8.5417 E; v2.0.1-rc3 #00ff7f",
    "SALE: 50% OFF ALL RED & BLUE SHOES, SIZE 36-45!!! Call +49 (0)30 1234-5678 <b>NOW</b> or see https://shop.example/?q=shoes&page=2",
    "x x x x x x x x the the the the of of of of , , , , . . . . ? ? ? ? ! ! ! ! - - - - a b c d e f g h i j k l m n o p",
)  # fmt: skip
_LENGTHS = (1, 4, 9, 40)  # words of a sentence that make a text
_SAMPLED = (25,)
_KINDS = 8  # pictures of each of the four kinds; of the samples half as many
_NEAREST = 10
_AT_A_TIME = 8  # texts of about a length


class Inputs(NamedTuple):
    """Texts, and pictures as the model sees them, uint8 (N, 3, H, W)."""

    texts: list[str]
    pictures: Tensor

    def some(self, texts: int, pictures: int) -> "Inputs":
        """So many of each, evenly taken."""
        return Inputs(
            self.texts[:: len(self.texts) // texts][:texts], self.pictures[:: len(self.pictures) // pictures][:pictures]
        )


class Kept(NamedTuple):
    """The least cosine to float32, and the share of each input's nearest 10 among the others that are the same."""

    cosine: float
    overlap: float


def inputs(size: tuple[int, int]) -> Inputs:
    """64 texts of all lengths in 12 scripts and 32 pictures: like photographs, flat, noise, and extreme."""
    texts = [" ".join(sentence.split()[:words]) for sentence in _SENTENCES for words in _LENGTHS]
    return Inputs(["", *texts[1:]], _pictures(size, _KINDS, seed=1))


def samples(size: tuple[int, int]) -> Inputs:
    """16 other texts and 16 other pictures of the same kinds."""
    return Inputs(
        [" ".join(s.split()[::-1][:words]) for s in _SENTENCES for words in _SAMPLED], _pictures(size, _KINDS // 2, seed=2)
    )


def _pictures(size: tuple[int, int], count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(3, *shape, generator=generator)

    def photo(number: int) -> Tensor:  # detail at three scales, as much of it as photographs have
        scales = [F.interpolate(random(side, side)[None], size=size, mode="bicubic")[0] for side in (3 + number, 24, 96)]
        return 0.7 * scales[0] + 0.2 * scales[1] + 0.1 * scales[2]

    def flat(number: int) -> Tensor:
        return random(1, 1).expand(3, *size) if number > 1 else torch.full((3, *size), float(number))

    def noise(number: int) -> Tensor:
        return (
            (random(*size) - 0.5) * 2.0 ** -(number % 4) + 0.5 if number % 2 else (random(*size) < 0.1 * (1 + number)).float()
        )

    def extreme(number: int) -> Tensor:  # black and white in squares and stripes; one bright spot
        step = 1 << number
        rows, columns = (torch.arange(side) // step % 2 for side in size)
        squares = (rows[:, None] ^ columns if number % 2 else columns.expand(size)).float()
        if number == 2:
            squares = torch.zeros(size)
            squares[size[0] // 2, size[1] // 2] = 1
        return squares * random(1, 1).round() if number % 3 else squares.expand(3, *size)

    made = [kind(number) for kind in (photo, flat, noise, extreme) for number in range(count)]
    return (torch.stack(made).clamp(0, 1) * 255).round().to(torch.uint8)


def in_groups(encode, tokens: list[Tensor]) -> Tensor:
    """`encode` over texts of about the same length at a time, the rows in the order of `tokens`."""
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    parts = [encode([tokens[row] for row in order[at : at + _AT_A_TIME]]) for at in range(0, len(order), _AT_A_TIME)]
    return torch.cat(parts)[torch.tensor(order).argsort()]


def kept(found: Tensor, exact: Tensor) -> Kept:
    """Of unit vectors, (N, dimension)."""
    same, nearest = _nearest(found) & _nearest(exact), _nearest(exact)
    return Kept(float((found * exact).sum(dim=1).min()), float(same.sum() / nearest.sum()))


def _nearest(vectors: Tensor) -> Tensor:
    """Whether the column's vector is among the row's nearest, bool (N, N)."""
    close = (vectors @ vectors.T).fill_diagonal_(-2)
    nearest = close.topk(min(_NEAREST, len(close)), dim=1).indices
    return torch.zeros_like(close, dtype=torch.bool).scatter_(1, nearest, True)
