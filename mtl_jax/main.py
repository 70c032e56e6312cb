"""Learns the tasks of a config, evaluates and reports.

    python -m mtl_jax.main --config=quickstart --workdir=DIR

The same as `python -m mtl_jax run`; see `mtl_jax.commands.run`.
"""

import sys

from mtl_jax import commands

if __name__ == '__main__':
  sys.exit(commands.call('run', None, 'python -m mtl_jax.main'))
