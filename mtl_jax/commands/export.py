"""`mtl-jax export`: one task as one file."""

import argparse

from mtl_jax import lifecycle
from mtl_jax.storage import anywhere

DESCRIPTION = (
    'Writes a task as one file. `import` reads it into another workdir, and '
    '`predict`, `verify` and `mtl_jax.load` accept it instead of a workdir.')
EXAMPLES = (
    ('{} --workdir=runs/mine --task=birds --output=birds.safetensors',
     'one task'),
    ('{} --workdir=runs/quickstart --task=permuted-12 --with_basis '
      '--output=p.safetensors', 'including the masks that it combines'),
    ('{} --workdir=runs/mine --task=birds --network '
     '--output=weights.safetensors', 'its whole network, for the '
     'backbone.weights of other runs'),
    ("{} --workdir=runs/mine --task=birds --licence=CC0 --text='From my "
      "garden' --output=birds.safetensors", 'with a licence and a text'),
)


def flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for the task and the file."""
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='of a run')
  parser.add_argument('--task', required=True, metavar='NAME')
  parser.add_argument('--output', required=True, metavar='FILE',
                      help='file to write, such as NAME.safetensors or '
                      'gs://BUCKET/NAME.safetensors')
  what = parser.add_mutually_exclusive_group()
  what.add_argument('--with_basis', action='store_true',
                    help='include what it needs of other tasks')
  what.add_argument('--network', action='store_true', help=(
      'write its whole network instead, a file for backbone.weights'))
  parser.add_argument('--licence', default='', metavar='TEXT')
  parser.add_argument('--text', default='', metavar='TEXT',
                      help='a text for the users of the task')
  parser.add_argument('--plugins', action='append', metavar='FILE', help=(
      'a Python file that registers your own methods or models'))


def main(given: argparse.Namespace) -> int | None:
  """Writes the file."""
  system = lifecycle.load(given.workdir, given.plugins)
  output = anywhere.place(given.output)
  if given.network:
    path = system.export_network(given.task, output, given.licence, given.text)
  else:
    path = system.export(given.task, output, given.with_basis, given.licence,
                         given.text)
  print(f'{path}: {anywhere.size(path):,} bytes')
  return None
