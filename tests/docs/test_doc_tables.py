"""The documentation's tables: every field of a config is explained."""

import dataclasses
import pathlib
import re
import sys

import pytest

from mtl_jax import methods
from mtl_jax.config import config
from mtl_jax.config import parts

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
sys.path.insert(0, str(DOCS))

import tables  # noqa: E402 pylint: disable=wrong-import-position

CONFIGS = (DOCS / 'configs.md').read_text()
CLASSES = re.findall(r'<!-- fields ([\w.]+) -->', CONFIGS)


@pytest.mark.parametrize('path', CLASSES)
def test_every_field_has_its_default_and_meaning(path):
  rows = tables.fields(path).splitlines()[2:]
  names = [f.name for f in dataclasses.fields(tables._load(path))]
  assert [row.split('|')[1].strip(' `') for row in rows] == names
  for row in rows:
    assert all(cell.strip() for cell in re.split(r'(?<!\\)\|', row)[1:-1]), row


def test_every_part_of_a_config_has_a_table():
  own = {config.Config, config.Phase, parts.Backbone, parts.Training,
         parts.Rounds, parts.Stream, parts.Search, parts.Scenario,
         parts.MeshAxes}
  for name in methods.METHODS:
    cls = methods.options_class(name)
    if cls.__module__.startswith('mtl_jax.'):  # with those of every method
      own |= set(cls.__bases__ if len(cls.__bases__) > 1 else (cls,))
  assert own <= {tables._load(path) for path in CLASSES}


def test_a_field_that_nothing_explains_is_an_error():
  with pytest.raises(ValueError, match='Shown.b is explained nowhere'):
    tables.fields('test_doc_tables.Shown')


@dataclasses.dataclass(frozen=True)
class Shown:
  """Two fields.

  Attributes:
    a: the first.
  """
  a: int = 1
  b: int = 2


def test_meanings_are_read_with_their_later_lines():
  text = 'Sum.\n\nArgs:\n  a, b: two\n    numbers.\n  c: third.\n'
  assert tables.meanings(text) == {'a': 'two numbers.', 'b': 'two numbers.',
                                   'c': 'third.'}


def lines_of(text):
  lines = text.splitlines()
  tables.literal_blocks(None, 'function', 'f', None, None, lines)
  return lines


def test_blocks_of_a_docstring_become_code_and_signs_stay_themselves():
  assert lines_of('The |a| of `x`s.\n\n    f(*a)\n\nArgs:\n  *a: all.\n') == [
      r'The \|a\| of `x`\s.', '', '::', '', '    f(*a)', '', 'Args:',
      '  *a: all.']


def test_links_lead_to_pages_or_lose_their_target():
  source = ['[a](../experiments/part/README.md#x) [b](../LICENSE) '
            '![c](../d.svg) [e](https://f.g)']
  tables.fill(None, 'guide', source)
  assert source == ['[a](results/part.md#x) b ![c](../d.svg) '
                    '[e](https://f.g)']
