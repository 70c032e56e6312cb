"""A picture is read as a person sees it, or refused; never cut in silence."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL import ImageCms
from PIL import ImageOps

from mtl_jax.data import pictures

RANDOM = np.random.RandomState(0)
PIXELS = RANDOM.randint(0, 256, (4, 6, 3)).astype(np.uint8)


def saved(picture, format_, **options):
  stream = io.BytesIO()
  picture.save(stream, format_, **options)
  stream.seek(0)
  return stream


def read(stream, **options):
  return pictures.read('here', 'it', stream, **options)


@pytest.mark.parametrize('tag, turn', [
    (1, lambda x: x), (2, lambda x: x[:, ::-1]), (3, lambda x: x[::-1, ::-1]),
    (4, lambda x: x[::-1]), (5, lambda x: x.transpose(1, 0, 2)),
    (6, lambda x: np.rot90(x, -1)),
    (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
    (8, lambda x: np.rot90(x))])
@pytest.mark.parametrize('format_', ['PNG', 'TIFF', 'WEBP'])
def test_a_picture_stands_as_its_tag_says(tag, turn, format_):
  exif = Image.Exif()
  exif[0x112] = tag
  options = {'lossless': True} if format_ == 'WEBP' else {}
  stream = saved(Image.fromarray(PIXELS), format_, exif=exif, **options)
  np.testing.assert_array_equal(read(stream), turn(PIXELS))
  stream.seek(0)
  if format_ != 'TIFF':  # Pillow turns these itself, for the codes too
    np.testing.assert_array_equal(read(stream, mode='RGB', seen=False), PIXELS)


def chunk(kind, content):
  return (struct.pack('>I', len(content)) + kind + content
          + struct.pack('>I', zlib.crc32(kind + content)))


def deep_png(colours):
  """Two pixels of 16 bits a channel; `colours` as PNG numbers them."""
  channels = {2: 3, 4: 2, 6: 4}[colours]
  rows = b'\0' + bytes([1, 2] * channels * 2)
  return b'\x89PNG\r\n\x1a\n' + chunk(
      b'IHDR', struct.pack('>IIBBBBB', 2, 1, 16, colours, 0, 0, 0)) + chunk(
          b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def deep_tiff():
  """Two pixels of 16 bits a channel."""
  tags = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1),
          (262, 3, 1, 2), (273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 1),
          (279, 4, 1, 12)]
  head = b'II*\0' + struct.pack('<IH', 8, len(tags)) + b''.join(
      struct.pack('<HHII', *tag) for tag in tags) + bytes(4)
  assert len(head) == 122
  return head + struct.pack('<HHH', 16, 16, 16) + bytes(range(12))


def deep_jpeg_2000():
  content = saved(Image.fromarray(PIXELS), 'JPEG2000').getvalue()
  start = content.index(b'\xff\x4f\xff\x51') + 42
  assert content[start:start + 9:3] == b'\7\7\7'  # 8 bits each
  return content[:start] + b'\x0b' + content[start + 1:]


@pytest.mark.parametrize('content', [
    deep_png(2), deep_png(4), deep_png(6), deep_tiff(), deep_jpeg_2000(),
    b'P6 2 1 65535\n' + bytes(range(12)), b'P3 1 1 300\n299 1 2\n'],
                         ids=['rgb', 'grey', 'rgba', 'tiff', 'jpeg2000', 'ppm',
                              'plain'])
def test_more_than_eight_bits_are_not_cut(content):
  with Image.open(io.BytesIO(content)) as picture:
    assert picture.mode in ('RGB', 'RGBA', 'LA')  # Pillow does not say it
  with pytest.raises(ValueError, match='here: it has more than 8 bits a '
                     'channel.*convert it to 8 bits'):
    read(io.BytesIO(content))


@pytest.mark.parametrize('format_', ['GIF', 'PNG', 'TIFF', 'WEBP'])
def test_several_frames_are_not_one_picture(format_):
  frames = [Image.fromarray(np.roll(PIXELS, i)) for i in range(3)]
  stream = saved(frames[0], format_, save_all=True, append_images=frames[1:])
  with pytest.raises(ValueError, match='it has 3 pages or frames; save the'):
    read(stream)
  assert read(saved(frames[0], format_)).shape == (4, 6, 3)


def test_a_phone_s_second_picture_is_its_own():
  frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
  stream = saved(frames[0], 'MPO', save_all=True, append_images=frames[1:],
                 quality=100, subsampling=0)
  assert np.abs(read(stream).astype(int) - PIXELS).max() < 20


def profile(red, green, blue, gamma=1., space=b'RGB '):
  """A colour profile of three primaries in XYZ (D50), of one gamma."""
  def fixed(*values):
    return b''.join(struct.pack('>i', round(v * 65536)) for v in values)
  curve = b'curv' + bytes(4)
  curve += struct.pack('>IH', 1, round(gamma * 256)) + bytes(2)
  name = b'of a test'
  tags = {b'desc': b'desc' + bytes(4) + struct.pack('>I', len(name) + 1) + name
                   + bytes(80),
          b'cprt': b'text' + bytes(4) + b'none' + bytes(4),
          b'wtpt': b'XYZ ' + bytes(4) + fixed(.9642, 1., .8249)}
  for letter, primary in zip('rgb', (red, green, blue)):
    tags[f'{letter}XYZ'.encode()] = b'XYZ ' + bytes(4) + fixed(*primary)
    tags[f'{letter}TRC'.encode()] = curve
  table, content = b'', b''
  start = 128 + 4 + 12 * len(tags)
  for tag, value in tags.items():
    value += bytes(-len(value) % 4)
    table += tag + struct.pack('>II', start + len(content), len(value))
    content += value
  head = struct.pack('>I4sI4s4s4s', start + len(content), b'none', 0x02100000,
                     b'mntr', space, b'XYZ ') + bytes(12) + b'acsp' + bytes(28)
  head += fixed(.9642, 1., .8249) + bytes(48)
  assert len(head) == 128
  return head + struct.pack('>I', len(tags)) + table + content


RED, GREEN, BLUE = ((.4361, .2225, .0139), (.3851, .7169, .0971),
                    (.1431, .0606, .7141))  # of sRGB


def test_colours_are_those_of_the_picture_s_profile():
  red = Image.new('RGB', (3, 2), (255, 0, 0))
  swapped = profile(GREEN, RED, BLUE)
  seen = read(saved(red, 'PNG', icc_profile=swapped))
  assert (np.abs(seen.astype(int) - (0, 255, 0)) < 6).all()
  stored = read(saved(red, 'PNG', icc_profile=swapped), mode='RGB', seen=False)
  assert (stored == (255, 0, 0)).all()
  # A linear grey of 55 looks as sRGB's 128 does.
  palette = Image.new('RGB', (3, 2), (55, 55, 55)).quantize(4)
  seen = read(saved(palette, 'PNG', icc_profile=profile(RED, GREEN, BLUE)))
  assert (np.abs(seen.astype(int) - 128) < 4).all()


@pytest.mark.parametrize('raw', [
    ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes(),
    b'no profile', profile(GREEN, RED, BLUE, space=b'CMYK')],
                         ids=['srgb', 'broken', 'of another mode'])
def test_a_profile_that_changes_nothing_changes_nothing(raw):
  stream = saved(Image.fromarray(PIXELS), 'PNG', icc_profile=raw)
  np.testing.assert_array_equal(read(stream), PIXELS)


def test_print_and_lab_colours_are_converted():
  cyan = Image.new('CMYK', (8, 8), (255, 0, 0, 0))
  seen = read(saved(cyan, 'TIFF'))
  assert seen.shape == (8, 8, 3) and (seen == (0, 255, 255)).all()
  lab = Image.merge('LAB', [Image.new('L', (8, 8), v) for v in (136, 208, 195)])
  red = read(saved(lab, 'TIFF')).astype(int)  # L 53, a 80, b 67
  assert (np.abs(red - (255, 0, 0)) < 12).all()


@pytest.mark.parametrize('opaque', [True, False])
def test_palettes_with_transparency(opaque):
  picture = Image.fromarray(PIXELS).quantize(8)
  expected = np.asarray(picture.convert('RGB'))
  stream = saved(picture, 'PNG', transparency=bytes(
      [255] * 8 if opaque else [255] * 7 + [0]))
  if not opaque:
    with pytest.raises(ValueError, match='it is transparent in places'):
      read(stream)
    return
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    np.testing.assert_array_equal(read(stream), expected)


@pytest.mark.parametrize('mode, channels', [
    ('1', 1), ('L', 1), ('P', 3), ('RGB', 3), ('RGBA', 3), ('LA', 1)])
def test_grey_stays_grey(mode, channels):
  picture = Image.fromarray(PIXELS).convert(mode)
  assert read(saved(picture, 'PNG')).shape == (4, 6, channels)


def test_content_decides_and_nothing_is_run():
  assert pictures.readable(saved(Image.fromarray(PIXELS), 'JPEG'))
  assert pictures.readable(saved(Image.fromarray(PIXELS), 'AVIF'))
  encapsulated = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n'
  with Image.open(io.BytesIO(encapsulated)) as picture:
    assert picture.format == 'EPS'  # which Pillow hands to Ghostscript
  for content in (encapsulated, b'', b'text', b'{"a": 1}'):
    assert not pictures.readable(io.BytesIO(content))
    with pytest.raises(ValueError, match='it can not be read as an image'):
      read(io.BytesIO(content))


@pytest.mark.parametrize('format_', ['PNG', 'JPEG', 'GIF', 'TIFF', 'WEBP',
                                     'BMP', 'PPM', 'ICO', 'TGA', 'JPEG2000'])
def test_whatever_a_damaged_file_does_is_one_sentence(format_):
  exif = Image.Exif()
  exif[0x112] = 6
  whole = saved(ImageOps.pad(Image.fromarray(PIXELS), (32, 32)), format_,
                **({'exif': exif} if format_ in ('PNG', 'JPEG') else {})
                ).getvalue()
  random = np.random.RandomState(0)
  for trial in range(60):
    content = bytearray(whole)
    if trial % 3:
      for place in random.randint(0, len(content), trial):
        content[place] = random.randint(256)
    else:
      del content[random.randint(len(content)):]
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow's own, of odd tags
        pixels = read(io.BytesIO(bytes(content)))
    except ValueError as error:
      assert str(error).startswith('here: it ')
    else:
      assert pixels.dtype == np.uint8 and pixels.ndim == 3


def test_linear_srgb_is_converted_whatever_its_name_says():
  """GIMP's "Linear sRGB" has sRGB in its name, and other colours."""
  plain = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  linear = bytearray(plain)
  count = int.from_bytes(plain[128:132], 'big')
  for tag in range(132, 132 + 12 * count, 12):
    if plain[tag + 1:tag + 4] == b'TRC':
      place = int.from_bytes(plain[tag + 4:tag + 8], 'big')
      linear[place:place + 12] = b'curv' + bytes(8)  # the identity
  picture = Image.fromarray(np.full((2, 2, 3), 128, np.uint8))
  said = ImageCms.getProfileDescription(
      ImageCms.ImageCmsProfile(io.BytesIO(bytes(linear))))
  assert 'srgb' in said.lower()
  for profile, seen in ((plain, 128), (bytes(linear), 188)):
    found = read(saved(picture, 'PNG', icc_profile=profile))
    np.testing.assert_array_equal(found, seen)
