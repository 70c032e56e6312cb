"""Proves that nothing was forgotten: re-derives every task, bit for bit.

    python -m mtl_jax.verify --workdir=DIR

For every task: the SHA-256 of each stored leaf, the backbone's fingerprint,
and the outputs on the stored probe images against those of the moment when
the task was committed. Exits non-zero and names what changed.
"""

import argparse
import sys

from mtl_jax.serving import system as system_lib
from mtl_jax.serving import verification


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True, help='of a run')
  workdir = parser.parse_args().workdir
  try:
    result = verification.check(system_lib.load(workdir))
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
  print(f'{result.tasks} tasks verified: all hashes and outputs are those of '
        'their commits')


if __name__ == '__main__':
  main()
