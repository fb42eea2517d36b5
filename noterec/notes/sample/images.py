"""The pictures of the synthetic platform: each is drawn in one of a few visual styles, a palette with a pattern.

The style is a taste of its own: people who like it engage more, and no word of the note mentions it. Frequency, angle, phase,
the picture's subject and noise differ from note to note.
"""

from __future__ import annotations

import io

import numpy as np

STYLES = ("film stripes", "neon grid", "pastel dots", "earth rings")
# (dark, light, accent) in RGB, 0 to 1.
_PALETTES = np.array(
    [
        [[0.45, 0.18, 0.10], [0.98, 0.85, 0.60], [0.90, 0.45, 0.20]],
        [[0.05, 0.02, 0.15], [0.95, 0.10, 0.75], [0.05, 0.95, 0.90]],
        [[0.95, 0.78, 0.85], [0.99, 0.97, 0.88], [0.70, 0.88, 0.80]],
        [[0.25, 0.22, 0.10], [0.80, 0.72, 0.50], [0.45, 0.50, 0.22]],
    ]
)


def draw(style: int, px: int, rng: np.random.Generator) -> bytes:
    """A square JPEG picture in a style.

    Args:
        style: position in STYLES.
        px: its side, in pixels.
        rng: the source of everything else in the picture.
    """
    from PIL import Image

    dark, light, accent = _PALETTES[style] + rng.normal(0, 0.03, (3, 3))
    y, x = np.mgrid[0:px, 0:px] / px  # (px, px) each
    frequency, phase = 2 * np.pi * rng.uniform(3, 6), rng.uniform(0, 2 * np.pi)
    turn = rng.uniform(-0.5, 0.5)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    centre = rng.uniform(0.3, 0.7, 2)
    radius = np.hypot(x - centre[0], y - centre[1])
    waves = (
        np.sin(frequency * u + phase),
        np.maximum(np.cos(frequency * u + phase), np.cos(frequency * v + phase)) ** 9,
        np.cos(frequency * u + phase) * np.cos(frequency * v + phase) - 0.3,
        np.sin(frequency * 1.5 * radius + phase),
    )
    mix = np.clip((waves[style] + 1) / 2, 0, 1)[..., None]  # (px, px, 1)
    picture = dark * (1 - mix) + light * mix  # (px, px, 3)
    # The subject says nothing about style: a round or square patch anywhere, of any size.
    at, size = rng.uniform(0.2, 0.8, 2), rng.uniform(0.08, 0.2)
    away = np.hypot(x - at[0], y - at[1]) if rng.random() < 0.5 else np.maximum(abs(x - at[0]), abs(y - at[1]))
    picture = np.where((away < size)[..., None], accent, picture)
    picture += rng.normal(0, 0.03, picture.shape) + rng.normal(0, 0.05)
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
