"""The sub-commands of `python -m mtl_jax`.

A sub-command is one row of `COMMANDS` and a module with

    DESCRIPTION    its description, a sentence or two
    EXAMPLES       command lines; two spaces and an explanation follow each
    flags(parser)  adds its arguments
    main(given)    runs it; returns an exit code, or `None` for success

With `OVERRIDES = True` it gets the flags that begin with `--config.` in
`given.overrides`, as (name, value) pairs.
"""

import argparse
import importlib
import re
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType

from mtl_jax import _version
from mtl_jax import trees
from mtl_jax.commands import ends

# By name: the module, and a description in one line.
COMMANDS = {
    'run': ('mtl_jax.commands.run',
            'learn the tasks of a config, evaluate, report; resumes by itself'),
    'sweep': ('mtl_jax.commands.sweep',
              'configs x settings x seeds: here, on Ray or on SLURM'),
    'predict': ('mtl_jax.commands.predict',
                'classes and probabilities of images, as CSV or JSON'),
    'inspect': ('mtl_jax.commands.inspect',
                'tasks of a workdir: bytes, density, overlap, lineage'),
    'export': ('mtl_jax.commands.export',
               'one task as one file, to load or import elsewhere'),
    'import': ('mtl_jax.commands.import_file',
               'a task from such a file into a workdir'),
    'verify': ('mtl_jax.commands.verify',
               "re-derive every task's outputs and hashes"),
    'report': ('mtl_jax.commands.report',
               'the table and report.html of a finished run once more'),
    'configs': ('mtl_jax.commands.configs',
                'the configs that are shipped, and every field of one'),
}
_ABOUT = ('Many tasks in one network that is never changed: each leaves a '
          'small\nimpression on it.')
_EXAMPLES = (
    ('{} run --config=quickstart --workdir=runs/quickstart',
     'twenty small tasks in a minute'),
    ('{} run --config=folder:my/images --workdir=runs/mine',
     'images of your own, a sub-folder per class'),
    ('{} predict --workdir=runs/mine new/*.png --output=answers.csv',
     'what they show'),
)


class Parser(argparse.ArgumentParser):
  """An argument parser whose errors are one line."""

  def error(self, message):
    self.exit(2, f'error: {message}; see {self.prog} --help\n')


def main(argv: Sequence[str] | None = None, program: str = 'mtl-jax') -> int:
  """Runs the sub-command of a command line.

  Args:
    argv: arguments without the program's name; `None` takes the process's own.
    program: the name of the program in the help.

  Returns:
    The exit code.
  """
  ends.plain_output()
  words = list(sys.argv[1:] if argv is None else argv)
  return ends.guarded(lambda: _main(words, program))


def _main(words: list[str], program: str) -> int | None:
  if not words or words[0] in ('-h', '--help', 'help'):
    print(_help(program))
    return 0 if words else 2
  if words[0] == '--version':
    print(f'mtl_jax {_version.__version__}')
    return 0
  if words[0] in ('--list_configs', '--list-configs'):
    words = ['configs']
  if words[0] not in COMMANDS:
    print(f'error: there is no command {words[0]!r}'
          f'{trees.nearest(words[0], COMMANDS)}; known: {", ".join(COMMANDS)}',
          file=sys.stderr)
    return 2
  return _call(words[0], words[1:], f'{program} {words[0]}')


def call(name: str, argv: Sequence[str] | None, program: str) -> int:
  """Runs one sub-command; see `main`."""
  ends.plain_output()
  words = list(sys.argv[1:] if argv is None else argv)
  return ends.guarded(lambda: _call(name, words, program))


def _call(name: str, words: list[str], program: str) -> int | None:
  module = importlib.import_module(COMMANDS[name][0])
  try:
    given = parse(module, words, program)
  except SystemExit as end:  # after --help, or after an unknown flag
    return end.code if isinstance(end.code, int) else 1
  return module.main(given)


def parse(module: ModuleType, argv: list[str],
          program: str) -> argparse.Namespace:
  """The flags of a sub-command; `--jax_...` sets flags of jax.config."""
  examples = '\n'.join(
      f'  {line.format(program)}\n      {what}' for line, what in
      module.EXAMPLES)
  parser = Parser(
      prog=program, description=textwrap.fill(module.DESCRIPTION, 79),
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      epilog=f'examples:\n{examples}')
  module.flags(parser)
  given, rest = parser.parse_known_args(argv)
  given.overrides, given.jax_flags, unknown = _others(rest)
  if given.overrides and not getattr(module, 'OVERRIDES', False):
    parser.error(f'--config.{given.overrides[0][0]}: no config is read here')
  if unknown:
    if unknown[0][:1] != '-' and not getattr(given, 'config', True):
      parser.error(f'unknown argument {unknown[0]!r}; a config is given as '
                   f'--config={unknown[0]}')
    # pylint: disable-next=protected-access
    known = [flag for action in parser._actions
             for flag in action.option_strings]
    parser.error(f'unknown argument {unknown[0]!r}' + trees.nearest(
        unknown[0].partition('=')[0], known))
  return given


def _others(rest: list[str]):
  """Divides unknown arguments into (overrides, flags of JAX, all others)."""
  found: dict[str, list[tuple[str, str]]] = {'config.': [], 'jax_': []}
  unknown, left = [], list(rest)
  while left:
    word = left.pop(0)
    match = re.match(r'--?(config\.|jax_)([^=]*)(?:=(.*))?$', word, re.DOTALL)
    if not match:
      unknown.append(word)
      continue
    kind, name, value = match.groups()
    if value is None:
      value = left.pop(0) if left and not left[0].startswith('--') else 'True'
    found[kind].append((name, value))
  return found['config.'], found['jax_'], unknown


def _help(program: str) -> str:
  width = max(map(len, COMMANDS))
  lines = [f'usage: {program} COMMAND ...', '', _ABOUT, '', 'commands:']
  lines += [f'  {name:{width}}  {what}'
            for name, (_, what) in COMMANDS.items()]
  lines += ['', 'examples:']
  for line, what in _EXAMPLES:
    lines += [f'  {line.format(program)}', f'      {what}']
  return '\n'.join([*lines, '', f'{program} COMMAND --help says more;',
                    f'{program} --list_configs lists the shipped configs.'])
