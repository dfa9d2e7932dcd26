"""A small classifier of icons' styles, the ruler for style.

    python benchmarks/style_ruler.py --icons ../shared/data/icons [--steps 4000]

It trains on the icons that the base model may train on (tools/icons.py holds pairs of concept and set out), writes
benchmarks/style_ruler.safetensors, and prints its figure on the true held-out icons, which is the ceiling for
drawn ones.
Training images are shifted, blurred and made noisy at random, so that what an autoencoder does to an image does not
decide. Its last features (of length 1) tell styles apart that it never saw.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tools, which is not installed

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tools.icons import Icon, read_icons

WEIGHTS = Path(__file__).with_name("style_ruler.safetensors")
WIDTHS = (32, 64, 96, 160)
BATCH = 128


class StyleRuler(nn.Module):
    """A convolutional network for images of 64 pixels.

    Four convolutions of stride 2 have one of stride 1 after each; mean and deviation over the image follow.
    """

    def __init__(self, styles: list[str]) -> None:
        super().__init__()
        self.styles = styles
        blocks, before = [], 3
        for width in WIDTHS:
            blocks += [_convolution(before, width, 2), _convolution(width, width, 1)]
            before = width
        self.body = nn.Sequential(*blocks)
        self.embed = nn.Linear(2 * before, 96)
        self.head = nn.Linear(96, len(styles), bias=False)

    def features(self, images: Tensor) -> Tensor:
        """Describe the style of each image by a vector of length 1.

        Images are [N 3 64 64] in [0, 1], the result is [N 96].
        """
        found = self.body(images * 2 - 1).flatten(2)
        return F.normalize(self.embed(torch.cat([found.mean(2), found.std(2)], 1)), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Score all styles, [N S], for images [N 3 64 64].

        A score is 20 times the cosine of the features and the style's vector.
        """
        return 20 * self.features(images) @ F.normalize(self.head.weight, dim=1).T


def _convolution(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


@dataclass(frozen=True)
class Images:
    """Pixels of icons, [N 3 64 64] bytes, and their styles."""

    pixels: Tensor
    styles: Tensor


def read_images(icons: list[Icon], styles: list[str]) -> Images:
    """Decode icons."""
    pixels = np.stack([np.asarray(icon.read()) for icon in icons])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([styles.index(i.style) for i in icons]))


def altered(images: Tensor, dice: torch.Generator) -> Tensor:
    """Shift images [N 3 64 64], blur and roughen half of them."""
    padded = F.pad(images, (3, 3, 3, 3), value=1.0)
    down, right = torch.randint(0, 7, (2,), generator=dice).tolist()
    moved = padded[:, :, down : down + 64, right : right + 64]
    side = torch.rand(1, generator=dice).item() * 0.25
    kernel = torch.tensor([side, 1.0, side]) / (1 + 2 * side)
    weight = (kernel[:, None] * kernel).expand(3, 1, 3, 3).contiguous()
    blurred = F.conv2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), weight, groups=3)
    noise = 0.05 * torch.rand(1, generator=dice) * torch.randn(images.shape, generator=dice)
    is_altered = torch.rand(len(images), 1, 1, 1, generator=dice) < 0.5
    return torch.where(is_altered, blurred + noise, moved).clamp(0, 1)


def train(images: Images, styles: list[str], steps: int) -> StyleRuler:
    """Train a ruler in bfloat16; styles count evenly in it."""
    dice = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    ruler = StyleRuler(styles)
    shares = 1 / torch.bincount(images.styles, minlength=len(styles)).float()[images.styles]
    optimizer = torch.optim.AdamW(ruler.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        chosen = torch.multinomial(shares.sqrt(), BATCH, generator=dice)
        batch = altered(images.pixels[chosen].float() / 255, dice)
        with torch.autocast("cpu", torch.bfloat16):
            scores = ruler(batch)
        loss = F.cross_entropy(scores.float(), images.styles[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return ruler.eval()


@torch.no_grad()
def ranks(ruler: StyleRuler, pixels: Tensor, styles: Tensor) -> Tensor:
    """Rank [N] each image's own style among all, from 0."""
    scores = torch.cat([ruler(part.float() / 255) for part in pixels.split(256)])
    return (scores > scores.gather(1, styles[:, None])).sum(1)


def save(ruler: StyleRuler, path: Path) -> None:
    """Write the weights in half precision, with the styles' names."""
    weights = {
        name: weight.half() if weight.is_floating_point() else weight for name, weight in ruler.state_dict().items()
    }
    save_file(weights, path, {"styles": json.dumps(ruler.styles)})


def load_ruler(path: Path = WEIGHTS) -> StyleRuler:
    """Load the ruler that was committed."""
    with safe_open(path, "pt") as file:
        ruler = StyleRuler(json.loads(file.metadata()["styles"]))
        ruler.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return ruler.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000, help="0 measures the committed one")
    options = parser.parse_args()
    icons = read_icons(options.icons)
    styles = sorted({icon.style for icon in icons})
    if options.steps:
        save(train(read_images([i for i in icons if not i.is_held_out], styles), styles, options.steps), WEIGHTS)
    ruler = load_ruler()
    held_out = read_images([icon for icon in icons if icon.is_held_out], ruler.styles)
    found = ranks(ruler, held_out.pixels, held_out.styles)
    print(f"{len(found):,} held-out icons, {len(styles)} styles: ", end="")
    print(f"top-1 {(found < 1).float().mean():.3f}, top-5 {(found < 5).float().mean():.3f}")


if __name__ == "__main__":
    main()
