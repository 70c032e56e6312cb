"""`python -m mtl_jax COMMAND ...`, and the console script `mtl-jax`."""

import sys

from mtl_jax import commands


def main() -> int:
  """The entry point of `mtl-jax`; returns the exit code."""
  return commands.main()


if __name__ == '__main__':
  sys.exit(commands.main(program='python -m mtl_jax'))
