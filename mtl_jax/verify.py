"""Proves that nothing was forgotten: re-derives every task, bit for bit.

    python -m mtl_jax.verify --workdir=DIR

The same as `python -m mtl_jax verify`; see `mtl_jax.commands.verify`.
"""

import sys

from mtl_jax import commands

if __name__ == '__main__':
  sys.exit(commands.call('verify', None, 'python -m mtl_jax.verify'))
