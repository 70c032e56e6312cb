"""Common corruptions of uint8 images at five strengths.

Noise, blur and contrast with the strengths of CIFAR-10-C (Hendrycks and
Dietterich 2019, https://arxiv.org/abs/1903.12261).
"""

import numpy as np

STRENGTHS = {
    'blur': (.4, .6, .7, .8, 1.),  # standard deviation, pixels
    'contrast': (.75, .5, .4, .3, .15),  # factor of the distance from the mean
    'noise': (.04, .06, .08, .09, .10),  # standard deviation on [0, 1]
}


def corrupt(images, kind: str, strength: int, seed: int = 0) -> np.ndarray:
  """Corrupts images.

  Args:
    images: uint8 [n, H, W, C].
    kind: 'blur', 'contrast' or 'noise'.
    strength: 1 (weak) to 5.
    seed: seed of the noise.

  Returns:
    uint8 [n, H, W, C].

  Raises:
    ValueError: images have another type, or kind or strength is unknown.

  >>> flat = np.full((1, 2, 2, 1), 100, np.uint8)
  >>> corrupt(flat, 'contrast', 5).ravel().tolist()
  [100, 100, 100, 100]
  """
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError('images must be uint8 [n, H, W, C], not '
                     f'{images.dtype} {list(images.shape)}')
  if kind not in STRENGTHS:
    raise ValueError(f'unknown corruption {kind!r}; known: '
                     f'{", ".join(STRENGTHS)}')
  if not 1 <= strength <= len(STRENGTHS[kind]):
    raise ValueError(f'strength is {strength}; it must lie in 1 ... '
                     f'{len(STRENGTHS[kind])}')
  amount, x = STRENGTHS[kind][strength - 1], images / np.float32(255)
  if kind == 'blur':
    from scipy import ndimage
    x = ndimage.gaussian_filter(x, (0, amount, amount, 0))
  elif kind == 'contrast':
    mean = x.mean(axis=(1, 2), keepdims=True)
    x = (x - mean) * np.float32(amount) + mean
  else:
    x = x + np.random.RandomState(seed).normal(
        0, amount, x.shape).astype(np.float32)
  return np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
