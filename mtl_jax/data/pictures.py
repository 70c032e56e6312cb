"""Decodes an image file to what a person sees, in 8 bits per channel.

An image is turned according to its EXIF tag, its colours are converted to sRGB
by its embedded colour profile, and it is decoded by its content, whatever its
name. Files whose content would be lost are refused: more than 8 bits per
channel, transparency, several pages or frames.
"""

import functools
import io
import re

import numpy as np

# Pillow's modes with 8 bits per channel.
_MODES = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX',
          'CMYK', 'YCbCr', 'HSV', 'LAB')
_GREY = ('1', 'L', 'LA', 'La')
# Formats that need another program or that Pillow can't decode itself.
_NEVER = ('BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'WMF')
# Formats whose further frames are not other images.
_ONE_PICTURE = ('MPO', 'PSD')
_GREY_PROBE, _SAME = 128, 8  # sRGB is written down in ways that differ little


def resize(image, size):
  """Resizes one uint8 [H, W, C] image; Pillow's bilinear filter.

  Args:
    image: uint8 [H, W, C].
    size: (H, W) or (H, W, C); `None` leaves the image unchanged.
  """
  if size is None:
    return image
  from PIL import Image
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  if len(size) == 3:
    picture = picture.convert('L' if size[2] == 1 else 'RGB')
  resized = np.asarray(picture.resize(size[1::-1], Image.Resampling.BILINEAR))
  return resized[..., None] if resized.ndim == 2 else resized


def stack(where, count, images, size):
  """Fills one array from an iterable of (label of the image, uint8 image)."""
  found = None
  for row, (which, image) in enumerate(images):
    image = resize(image, size)
    if found is None:
      found = np.empty((count, *image.shape), np.uint8)
    if image.shape != found.shape[1:]:
      raise ValueError(
          f'{where}: {which} is {image.shape} but the first image is '
          f'{found.shape[1:]}; add a size to the name, as in "...@32x32x3"')
    found[row] = image
  if found is None:
    raise ValueError(f'{where}: there are no images')
  return found


def readable(file) -> bool:
  """Whether the content of a file is an image, whatever the file's name."""
  try:
    from PIL import Image
    with Image.open(file, formats=_formats()):
      return True
  except Exception:  # pylint: disable=broad-except # readers raise many kinds
    return False


def read(where, which, file, mode=None, seen=True):
  """Decodes a picture to uint8 [H, W, C].

  Args:
    where: source and split, for messages.
    which: the image, for messages.
    file: a path, or a binary file.
    mode: 'L' or 'RGB'; by default 'L' if the image is grey, else 'RGB'.
    seen: decode to what a person sees. `False` keeps the stored pixels, as TFDS
      and the published codes do.

  Raises:
    ValueError: the file is not an image, or one that 8 bits in three channels
      can't represent; names it and the remedy.
  """
  from PIL import Image
  try:
    with Image.open(file, formats=_formats() if seen else None) as picture:
      wrong = _lossy(picture, seen)
      if not wrong:
        pixels = _pixels(picture, mode, seen)
  except Exception as error:  # pylint: disable=broad-except
    # A damaged file may make Pillow's readers raise any error.
    raise ValueError(f'{where}: {which} can not be read as an image '
                     f'({error}); mend it, or take it away') from error
  if wrong:
    raise ValueError(f'{where}: {which} {wrong}')
  return pixels[..., None] if pixels.ndim == 2 else pixels


@functools.lru_cache(maxsize=None)
def _formats():
  """The formats of files in a folder: all that Pillow decodes by itself."""
  from PIL import Image
  Image.init()
  return tuple(f for f in Image.ID if f not in _NEVER)


def _lossy(picture, seen):
  """What an image would lose, and the remedy; '' if nothing."""
  if picture.mode not in _MODES:
    return (f'has pixels of mode {picture.mode!r}, which are not 0..255; '
            'convert it to 8 bits, or use sources.from_arrays')
  if _is_deep(picture):
    return ('has more than 8 bits a channel, which would be cut; convert it '
            'to 8 bits')
  frames = getattr(picture, 'n_frames', 1)
  if seen and frames > 1 and picture.format not in _ONE_PICTURE:
    return (f'has {frames} pages or frames; save the one that is meant as a '
            'file of its own')
  if picture.has_transparency_data and (
      _straight(picture).convert('RGBA').getextrema()[3][0] < 255):
    return ('is transparent in places, and what stands behind it is not known; '
            'put it on a background')
  return ''


def _is_deep(picture):
  """Whether Pillow cuts the picture's channels to 8 bits."""
  for tile in picture.tile:
    given = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    if isinstance(given[0], str) and re.search(';16[A-Z]', given[0]):
      return True
    if tile[0] in ('ppm', 'ppm_plain') and isinstance(given[-1], int) and (
        given[-1] > 255):
      return True
  if picture.format == 'TIFF':
    return max(picture.tag_v2.get(258, (1,))) > 8  # BitsPerSample
  if picture.format == 'JPEG2000':
    return _bits_of_jpeg_2000(picture.fp) > 8
  return False


def _bits_of_jpeg_2000(stream):
  """The largest number of bits of a component, from the marker SIZ."""
  place = stream.tell()
  stream.seek(0)
  head = stream.read(1 << 16)
  stream.seek(place)
  marker = head.find(b'\xff\x4f\xff\x51')  # codestream marker and size marker
  if marker < 0:
    return 8
  start = marker + 40  # the number of components
  count = int.from_bytes(head[start:start + 2], 'big')
  return max((1 + (byte & 0x7f) for byte in
              head[start + 2:start + 2 + 3 * count:3]), default=8)


def _straight(picture):
  """Divides colours by the opacity if they are multiplied by it."""
  return picture.convert({'La': 'LA', 'RGBa': 'RGBA'}.get(
      picture.mode, picture.mode))


def _pixels(picture, mode, seen):
  from PIL import ImageOps
  mode = mode or ('L' if picture.mode in _GREY else 'RGB')
  picture = _straight(picture)
  if picture.mode == 'PA' or 'transparency' in picture.info:  # opaque
    picture = picture.convert('RGBA')
  if seen:
    picture = _to_srgb(ImageOps.exif_transpose(picture))
  return np.asarray(picture.convert(mode))


def _to_srgb(picture):
  """Converts an image to sRGB if it has another colour profile."""
  from PIL import ImageCms
  srgb = ImageCms.createProfile('sRGB')
  if picture.mode == 'LAB':
    return ImageCms.profileToProfile(
        picture, ImageCms.createProfile('LAB'), srgb, outputMode='RGB')
  raw = picture.info.get('icc_profile')
  if not raw:
    return picture
  try:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(raw))
    space = profile.profile.xcolor_space.strip()
    described = ImageCms.getProfileDescription(profile)
  except (OSError, ImageCms.PyCMSError):
    return picture  # no viewer can use the profile either
  grey = picture.mode in _GREY
  mode = picture.mode if picture.mode == 'CMYK' else 'L' if grey else 'RGB'
  if {'GRAY': 'L', 'RGB': 'RGB', 'CMYK': 'CMYK'}.get(space) != mode or (
      'srgb' in described.lower() and _keeps_grey(profile, mode, srgb)):
    return picture
  return ImageCms.profileToProfile(picture.convert(mode), profile, srgb,
                                   outputMode='RGB')


def _keeps_grey(profile, mode, srgb):
  """Whether grey stays grey in sRGB; not with "Linear sRGB", for example."""
  from PIL import Image
  from PIL import ImageCms
  grey = Image.new(mode, (1, 1), _GREY_PROBE if mode == 'L' else (
      (_GREY_PROBE,) * len(mode)))
  seen = ImageCms.profileToProfile(grey, profile, srgb, outputMode='RGB')
  return max(abs(c - _GREY_PROBE) for c in seen.getpixel((0, 0))) <= _SAME
