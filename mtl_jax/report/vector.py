"""From a figure of Matplotlib to the SVG text that stands in the page.

Matplotlib writes neither hover values nor colours that follow the page, so
both are put into its text: what `tips` left on an artist becomes `<title>`
elements, and a neutral colour becomes a variable of the page's style sheet,
with the colour itself for a reader that has no such variable.
"""

import html
import io
import json
import re
from collections.abc import Sequence

from mtl_jax import json_files

# What the page calls the neutral colours; in the dark it gives others.
NEUTRAL = {
    '#24292f': 'ink', '#57606a': 'soft', '#9aa0a6': 'edge', '#e3e5e8': 'grid',
    '#d0d4d9': 'bar', '#c9ccd1': 'root', '#444444': 'base'}
_TIPS = 'tips-'


def tips(artist, texts: str | Sequence[str], kind: str = ''):
  """Says what a reader sees when the mouse rests on an artist; returns it.

  Args:
    artist: of Matplotlib; all its groups in the SVG become one.
    texts: one for the whole artist, or one for each of its marks.
    kind: becomes the class of the group, for those who read the SVG.
  """
  said = [texts if isinstance(texts, str) else list(texts), kind]
  artist.set_gid(_TIPS + json.dumps(said).encode().hex())
  return artist


def svg(figure) -> str:
  """The figure as the text of an `<svg>` element that needs nothing else."""
  buffer = io.StringIO()
  figure.savefig(buffer, format='svg', metadata={
      'Date': None, 'Creator': None, 'Format': None, 'Type': None})
  text = buffer.getvalue()
  text = text[text.index('<svg'):]
  text = re.sub(rf'^( *)<g id="{_TIPS}(\w+)">(.*?)^\1</g>$', _titled, text,
                flags=re.M | re.S)  # the indentation tells which end is its
  # Element numbers repeat from figure to figure; nothing refers to them.
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
