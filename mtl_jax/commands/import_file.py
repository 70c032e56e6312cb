"""`mtl-jax import`: reads a task from an exported file."""

import argparse

from mtl_jax import registry
from mtl_jax.serving import artifact

DESCRIPTION = (
    'Imports the task of an exported file into a workdir with the same '
    'backbone, or into a new one.')
EXAMPLES = (
    ('{} birds.safetensors --workdir=runs/mine', 'into the workdir of a run'),
    ('{} birds.safetensors --workdir=runs/new', 'into a new folder'),
    ('{} birds.safetensors --workdir=runs/mine --name=birds-2',
     'under another name'),
    ('{} lora.safetensors --workdir=runs/new --plugins=lora.py',
     'a task of your own method'),
)


def flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for the file and the workdir."""
  parser.add_argument('file', metavar='FILE', help=(
      'that `export` wrote; or its address in a bucket'))
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='workdir of a run, or a new folder')
  parser.add_argument('--name', metavar='NAME', help=(
      'name of the task there; by default its own'))
  parser.add_argument('--plugins', action='append', metavar='FILE', help=(
      'a Python file that registers your own methods or models'))


def main(given: argparse.Namespace) -> int | None:
  """Imports the task."""
  registry.load_plugins(given.plugins)
  name = artifact.import_task(given.workdir, given.file, given.name)
  print(f'imported {name} into {given.workdir}')
  return None
