"""Converts a Matplotlib figure to SVG text for the page.

Matplotlib supports neither hover text nor colours of the page's theme, so both
are inserted into the SVG: the texts of `tips` become `<title>` elements, and a
neutral colour becomes a CSS variable with the colour itself as the fallback.
"""

import html
import io
import json
import re
from collections.abc import Sequence

from mtl_jax import json_files

# CSS variables of the neutral colours; the dark theme has other values.
NEUTRAL = {
    '#24292f': 'ink', '#57606a': 'soft', '#9aa0a6': 'edge', '#e3e5e8': 'grid',
    '#d0d4d9': 'bar', '#c9ccd1': 'root', '#444444': 'base'}
_TIPS = 'tips-'


def tips(artist, texts: str | Sequence[str], kind: str = ''):
  """Sets the text that appears on hover over an artist; returns the artist.

  Args:
    artist: Matplotlib's artist; its groups in the SVG are merged.
    texts: one for the whole artist, or one for each of its marks.
    kind: class of the group in the SVG.
  """
  said = [texts if isinstance(texts, str) else list(texts), kind]
  artist.set_gid(_TIPS + json.dumps(said).encode().hex())
  return artist


def svg(figure) -> str:
  """The figure as an `<svg>` element without references to other files."""
  buffer = io.StringIO()
  figure.savefig(buffer, format='svg', metadata={
      'Date': None, 'Creator': None, 'Format': None, 'Type': None})
  text = buffer.getvalue()
  text = text[text.index('<svg'):]
  text = re.sub(rf'^( *)<g id="{_TIPS}(\w+)">(.*?)^\1</g>$', _titled, text,
                flags=re.M | re.S)  # the indentation finds the matching end
  # Ids repeat from figure to figure; nothing refers to them.
  text = re.sub(r' id="[A-Za-z][\w.]*?_\d+"', '', text)
  text = re.sub(r'(fill|stroke): (#[0-9a-f]{6})\b', _variable, text)
  return re.sub(r'\n\s*', '\n', text)


def _titled(match: re.Match) -> str:
  texts, kind = json_files.parse(bytes.fromhex(match[2]), list, 'a figure',
                                 'a title')
  body = match[3]
  if isinstance(texts, str):
    body = f'\n{_title(texts)}{body}'
  elif body.count('<use ') == len(texts):
    left = iter(texts)
    body = re.sub(r'(<use [^>]*)/>',
                  lambda use: f'{use[1]}>{_title(next(left))}</use>', body)
  name = f' class="{html.escape(kind)}"' if kind else ''
  return f'<g{name}>{body}</g>'


def _title(text: str) -> str:
  return f'<title>{html.escape(text)}</title>'


def _variable(match: re.Match) -> str:
  name = NEUTRAL.get(match[2])
  return (f'{match[1]}: var(--fig-{name}, {match[2]})' if name else match[0])
