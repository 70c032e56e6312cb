"""`mtl-jax import`: a task from the file of an export."""

import argparse

from mtl_jax import registry
from mtl_jax.serving import artifact

DESCRIPTION = (
    'Puts the task of an exported file into a workdir of the same backbone, or '
    'into a\nnew one.')
EXAMPLES = (
    ('{} birds.safetensors --workdir=runs/mine', 'beside the tasks of a run'),
    ('{} birds.safetensors --workdir=runs/new', 'into a new folder'),
    ('{} lora.safetensors --workdir=runs/new --plugins=lora.py',
     'of a method of your own'),
)


def flags(parser: argparse.ArgumentParser) -> None:
  """Which file, and where to."""
  parser.add_argument('file', metavar='FILE', help='that `export` wrote')
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='of a run, or a new folder')
  parser.add_argument('--plugins', action='append', metavar='FILE', help=(
      'a Python file that registers methods or models of your own'))


def main(given: argparse.Namespace) -> int | None:
  """Imports the task."""
  registry.load_plugins(given.plugins)
  print(f'imported {artifact.import_task(given.workdir, given.file)} into '
        f'{given.workdir}')
  return None
