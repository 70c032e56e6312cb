"""`mtl-jax export`: one task as one file."""

import argparse

from mtl_jax import lifecycle
from mtl_jax.storage import workdir as workdir_lib

DESCRIPTION = (
    'Writes a task as one file, which `import` puts into another workdir, and '
    'which\n`predict`, `verify` and `mtl_jax.load` take in the place of one.')
EXAMPLES = (
    ('{} --workdir=runs/mine --task=birds --output=birds.safetensors',
     'one task'),
    ('{} --workdir=runs/quickstart --task=permuted-12 --with_basis '
     '--output=p.safetensors', 'with the masks that it is made from'),
    ('{} --workdir=runs/mine --task=birds --network '
     '--output=weights.safetensors', 'its whole network, for the '
     'backbone.weights of other runs'),
    ("{} --workdir=runs/mine --task=birds --licence=CC0 --text='From my "
     "garden' --output=birds.safetensors", 'with words of your own'),
)


def flags(parser: argparse.ArgumentParser) -> None:
  """Which task, and where to."""
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='of a run')
  parser.add_argument('--task', required=True, metavar='NAME')
  parser.add_argument('--output', required=True, metavar='FILE',
                      help='to write; such as NAME.safetensors')
  what = parser.add_mutually_exclusive_group()
  what.add_argument('--with_basis', action='store_true',
                    help='with what it needs of other tasks')
  what.add_argument('--network', action='store_true', help=(
      'its whole network instead, a file for backbone.weights'))
  parser.add_argument('--licence', default='', metavar='TEXT')
  parser.add_argument('--text', default='', metavar='TEXT',
                      help='what you want to say of it')
  parser.add_argument('--plugins', action='append', metavar='FILE', help=(
      'a Python file that registers methods or models of your own'))


def main(given: argparse.Namespace) -> int | None:
  """Writes the file."""
  system = lifecycle.load(given.workdir, given.plugins)
  output = workdir_lib.local_folder(given.output)
  if given.network:
    path = system.export_network(given.task, output, given.licence, given.text)
  else:
    path = system.export(given.task, output, given.with_basis, given.licence,
                         given.text)
  print(f'{path}: {path.stat().st_size:,} bytes')
  return None
