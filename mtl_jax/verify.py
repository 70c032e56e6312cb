"""Proves that nothing was forgotten: re-derives every task, bit for bit.

    python -m mtl_jax.verify --workdir=DIR

For every task: the SHA-256 of each stored leaf, the backbone's fingerprint,
and the outputs on the stored probe images against those of the moment when
the task was committed. Exits non-zero and names what changed. DIR may also be
the file of an exported task, or a task's folder that was copied alone: then
says what it lacks.
"""

import argparse
import pathlib
import sys

from mtl_jax import lifecycle
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True, help='of a run')
  parser.add_argument('--plugins', action='append', metavar='FILE', help=(
      'a Python file that registers methods or models of your own; may be '
      'given several times'))
  given = parser.parse_args()
  workdir = given.workdir
  try:
    result = check(workdir, given.plugins)
  except (ValueError, OSError) as error:
    sys.exit(f'error: {error}')
  for note in result.notes:
    print(f'note: {note}')
  for fault in result.faults:
    print(f'FAULT: {fault}')
  if not result.tasks:
    sys.exit(f'error: no finished task in {workdir}')
  if result.faults:
    sys.exit(1)
  print(result)


def check(path, plugins=None) -> verification.Result:
  """Checks a workdir, the file of one task, or one task's folder alone."""
  folder = pathlib.Path(path)
  if not workdir_lib.Workdir(folder).backbone.exists() and (
      checkpoint.has_metadata(folder)):
    return verification.check_alone(folder)
  return verification.check(lifecycle.load(path, plugins))


if __name__ == '__main__':
  main()
