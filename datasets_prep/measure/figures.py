"""Quality scores from pixels: tone, sharpness, traces of compression, borders."""

import numpy as np
from PIL import Image, ImageFilter

NUM_RINGS = 32
STANDARD_LUMINANCE_MEAN = 57.6  # of the table that a JPEG of quality 50 has (ITU-T T.81, table K.1)


def middle_patch(image: Image.Image, side: int) -> Image.Image:
    """Crop the middle of an image, at most `side` wide and high."""
    width, height = min(side, image.width), min(side, image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def entropy(levels: np.ndarray) -> float:
    """Entropy of grey levels (uint8) in bits."""
    shares = np.bincount(levels.ravel(), minlength=256) / levels.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def deviation(levels: np.ndarray) -> float:
    """Standard deviation of levels (uint8)."""
    counts = np.bincount(levels.ravel(), minlength=256)
    values = np.arange(256)
    mean = (counts * values).sum() / levels.size
    return float(np.sqrt((counts * (values - mean) ** 2).sum() / levels.size))


def detail(grey: Image.Image) -> float:
    """Measure sharpness: near 1 where edges are sharp, 0 where blurred. This is the share of the differences between
    neighbours that is lost when the grey image is blurred once more; a blurred one has little to lose (Crété et al.,
    "The blur effect: perception and estimation with a new no-reference perceptual blur metric", 2007). Of the two
    directions the less sharp one counts."""
    lost = []
    pixels = np.asarray(grey, np.int16)
    for axis, radius in ((1, (4, 0)), (0, (0, 4))):
        if pixels.shape[axis] < 11:
            continue
        before = np.abs(np.diff(pixels, axis=axis))
        after = np.abs(np.diff(np.asarray(grey.filter(ImageFilter.BoxBlur(radius)), np.int16), axis=axis))
        whole = int(before.sum(dtype=np.int64))
        kept = int(np.minimum(before, after).sum(dtype=np.int64))
        lost.append(1 - kept / whole if whole else 0.0)
    return min(lost, default=0.0)


def spectrum_end(grey: np.ndarray) -> float:
    """Find the highest frequency with content, as a share of all. Of a grey image [H W], 0 to 1. Natural images lose
    power with about the square of the frequency; an enlarged one stops at its original resolution. The end is where
    power times frequency squared falls below a fiftieth of its value in the lower third, or where only the noise of
    rounding to whole levels is left."""
    side = min(grey.shape)
    if side < 32:
        return 1.0
    square = grey[:side, :side]
    window = np.hanning(side)
    power = np.abs(np.fft.rfft2((square - square.mean()) * window[:, None] * window[None])) ** 2
    down = np.fft.fftfreq(side)[:, None]
    across = np.fft.rfftfreq(side)[None]
    ring = np.minimum(np.hypot(down, across) * 2 * NUM_RINGS, NUM_RINGS).astype(int)
    count = np.bincount(ring.ravel(), minlength=NUM_RINGS + 1)[:NUM_RINGS]
    mean = np.bincount(ring.ravel(), weights=power.ravel(), minlength=NUM_RINGS + 1)[:NUM_RINGS] / count
    flat = mean * (np.arange(NUM_RINGS) + 0.5) ** 2
    usual = np.median(flat[NUM_RINGS // 12 : NUM_RINGS // 3])
    if usual <= 0:
        return 1.0
    rounding = (window**2).sum() ** 2 / 12
    above = np.flatnonzero((flat >= usual / 50) & (mean > 4 * rounding))
    return float((above[-1] + 1) / NUM_RINGS) if len(above) else 0.0


def blocks(grey: np.ndarray) -> float:
    """Measure how much larger every eighth step between pixels is than others. It is 1 where there are no blocks.
    `grey` [H W] (int16) is at the image's own resolution. Blocks may begin anywhere."""
    found = 1.0
    for plane in (grey, np.ascontiguousarray(grey.T)):
        if plane.shape[1] < 128:  # too few of each eighth to tell blocks from what is drawn
            continue
        steps = np.abs(plane[:, 1:] - plane[:, :-1]).sum(0, dtype=np.int32) / len(plane)
        phases = np.array([np.median(steps[phase::8]) for phase in range(8)])
        found = max(found, float(phases.max() / (np.median(phases) + 0.5)))
    return found


def jpeg_quality(header: Image.Image) -> float:
    """Estimate the JPEG quality from the quantization tables, 1 to 100. Other formats have 100."""
    tables = header.quantization if header.format in ("JPEG", "MPO") else None  # type: ignore[attr-defined]
    if not tables:
        return 100.0
    scale = 100 * float(np.mean(next(iter(tables.values())))) / STANDARD_LUMINANCE_MEAN
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return min(100.0, max(1.0, quality))


def border(levels: np.ndarray) -> float:
    """Largest share of a side covered by bars of one tone. 0 for a drawing on plain ground. A bar ends in a straight
    line: at least three quarters of the first line inside differ from it."""
    largest = 0.0
    for plane in (levels, levels[::-1], levels.T, levels.T[::-1]):
        lines = plane.astype(np.int16)
        differs = np.abs(lines - lines[0, 0]) > 12
        inside = np.flatnonzero(differs.any(1))
        if len(inside) and differs[inside[0]].mean() < 0.75:
            inside = inside[1:2]  # resizing may have mixed one line with the bar
            inside = inside if len(inside) and differs[inside[0]].mean() >= 0.75 else inside[:0]
        if len(inside):
            largest = max(largest, float(inside[0]) / len(lines))
    return largest
