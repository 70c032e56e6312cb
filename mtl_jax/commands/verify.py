"""`mtl-jax verify`: proves that nothing was forgotten, bit for bit."""

import argparse

from mtl_jax import lifecycle
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib

DESCRIPTION = (
    'Re-derives every task and compares it with its commit: the SHA-256 of '
    'each stored leaf, the fingerprint of the backbone, and the outputs on '
    'the stored probe images. Exits non-zero and names what changed.')
EXAMPLES = (
    ('{} --workdir=runs/quickstart', 'all tasks of a run'),
    ('{} --workdir=runs/mine --plugins=lora.py',
     'a run with your own method or model'),
    ('{} --workdir=runs/quickstart && echo sound', 'in a script'),
)


def flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for the workdir."""
  parser.add_argument('--workdir', required=True, metavar='DIR', help=(
      "workdir of a run, an exported file, or a task's folder that was copied "
      'alone'))
  parser.add_argument('--plugins', action='append', metavar='FILE', help=(
      'a Python file that registers your own methods or models; may be '
      'given several times'))


def main(given: argparse.Namespace) -> int | None:
  """Verifies; returns 1 if something changed."""
  result = check(given.workdir, given.plugins)
  for note in result.notes:
    print(f'note: {note}')
  for fault in result.faults:
    print(f'FAULT: {fault}')
  if not result.tasks:
    raise ValueError(f'no finished task in {given.workdir}')
  if result.faults:
    return 1
  print(result)
  return None


def check(path, plugins=None) -> verification.Result:
  """Checks a workdir, the file of one task, or one task's folder alone."""
  if lifecycle.is_file(path):
    return verification.check(lifecycle.load(path, plugins))
  work = workdir_lib.Workdir(path)
  work.read()
  if not work.backbone.exists() and checkpoint.has_metadata(work.root):
    return verification.check_alone(work.root)
  return verification.check(lifecycle.load(work.root, plugins))
