"""The main colour of a drawing on white, and copies in others."""

import numpy as np
from PIL import Image

HUES = {"red": 0, "orange": 28, "yellow": 48, "green": 125, "blue": 212, "purple": 272, "pink": 330}
"""Degrees on the colour circle."""
TONES = {  # saturation and value of a clean tone of each
    "red": (0.8, 0.9),
    "orange": (0.9, 1.0),
    "yellow": (0.8, 1.0),
    "green": (0.7, 0.65),
    "blue": (0.75, 0.85),
    "purple": (0.65, 0.65),
    "pink": (0.45, 1.0),
}
COLOUR_WORDS = (*HUES, "black", "white", "brown", "grey")


def main_colour(image: Image.Image) -> str | None:
    """Name the colour of most of the vivid pixels.

    It is None where these are less than half of what is not paper, or have no one colour.
    """
    hue, saturation, value = (np.asarray(channel, dtype=float) for channel in image.convert("HSV").split())
    drawn = (saturation > 40) | (value < 215)
    vivid = drawn & (saturation > 70) & (value > 70)
    if vivid.sum() < 0.5 * drawn.sum() or not vivid.any():
        return None
    degrees = hue[vivid] * 360 / 255
    names = list(HUES)
    distance = np.abs((degrees[:, None] - np.array(list(HUES.values())) + 180) % 360 - 180)
    counts = np.bincount(distance.argmin(1), minlength=len(names))
    return names[int(counts.argmax())] if counts.max() > 0.6 * vivid.sum() else None


def recoloured(image: Image.Image, old: str, new: str) -> Image.Image:
    """Turn colour `old`, with the hues and tones around it, to `new`."""
    hsv = np.asarray(image.convert("HSV"), dtype=float)
    degrees = hsv[..., 0] * 360 / 255
    offset = (degrees - HUES[old] + 180) % 360 - 180
    near = (np.abs(offset) < 50) & (hsv[..., 1] > 30)
    (s_old, v_old), (s_new, v_new) = TONES[old], TONES[new]
    turned = hsv.copy()
    turned[..., 0] = ((HUES[new] + 0.4 * offset) % 360) * 255 / 360
    turned[..., 1] = np.clip(hsv[..., 1] * s_new / s_old, 0, 255)
    paleness = 1 - hsv[..., 1] / 255  # highlights keep their light
    turned[..., 2] = np.clip(hsv[..., 2] * (paleness + (1 - paleness) * v_new / v_old), 0, 255)
    result = np.where(near[..., None], turned, hsv)
    return Image.fromarray(np.rint(result).astype(np.uint8), "HSV").convert("RGB")


def named(caption: str, old: str, new: str) -> str:
    """Name colour `new` in a caption, in place of `old` if present."""
    words = caption.split()
    stated = [word for word in words if word in COLOUR_WORDS]
    if stated and stated[0] == old:
        return " ".join(new if word == stated[0] else word for word in words)
    return caption if stated else f"{new} {caption}"
