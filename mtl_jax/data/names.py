"""Makes names of tasks from their sources and numbers."""

import collections
import hashlib
import pathlib
import re
import unicodedata

from mtl_jax.data import sources
from mtl_jax.data import tasks

_KEPT = 60  # bytes that are kept of a name that is too long


def folded(name: str) -> str:
  """A form that is equal for names that some disk treats as equal.

  >>> folded('Birds') == folded('birds')
  True
  """
  return unicodedata.normalize('NFC', name).casefold()


def of_number(kind: str, number: int, count: int,
              width: int | None = None) -> dict[str, str]:
  """Name and key of a numbered task, as arguments of `Task`.

  Args:
    kind: the word before the number.
    number: number of the task.
    count: number of all tasks, which decides how many digits its name has.
    width: digits of names and of keys for random numbers; `None` takes as many
      as `count` needs, at least two, and a key that does not depend on it.

  >>> of_number('permuted', 3, 250), of_number('permuted', 3, 250, 3)['key']
  ({'name': 'permuted-003', 'key': 'permuted-03'}, 'permuted-003')
  """
  digits = width or max(2, len(str(count - 1)))
  return {'name': f'{kind}-{number:0{digits}d}',
          'key': f'{kind}-{number:0{width or 2}d}'}


def of_source(name: str) -> str:
  """A task's name from the name of its source; for files, the file's name.

  >>> of_source('cmaterdb/bangla'), of_source('table:/x/prices.csv')
  ('cmaterdb-bangla', 'prices')
  >>> of_source('signs=folder:/x/images')
  'signs'
  """
  own, name = sources.split_name(name)
  kind, _, path = name.partition(':')
  if own:
    name = own
  elif kind == 'table':
    name = pathlib.PurePath(path).stem
  elif kind == 'folder':
    name = pathlib.PurePath(path).name
  return _fit(name)


def of_sources(names) -> list[str]:
  """Names of tasks, different if their sources differ.

  If folders or files have equal names, enough of the folders above them are
  added to tell them apart; names that are still equal get a number.

  >>> of_sources(('folder:/a/images', 'folder:/b/images', 'mnist'))
  ['a-images', 'b-images', 'mnist']
  """
  found = [of_source(name) for name in names]
  for count in range(2, 10):
    twice = {name.casefold() for name in found
             if [n.casefold() for n in found].count(name.casefold()) > 1}
    found = [_fit('-'.join(_parts(name)[-count:]))
             if short.casefold() in twice and _parts(name) else short
             for name, short in zip(names, found)]
  seen: collections.Counter = collections.Counter()
  for i, name in enumerate(found):
    seen[name.casefold()] += 1
    if seen[name.casefold()] > 1:
      found[i] = f'{name}-{seen[name.casefold()]}'
  return found


def _parts(name):
  """The folders of a path, beginning with its own name and going up."""
  own, name = sources.split_name(name)
  kind, _, path = name.partition(':')
  if own or kind not in ('table', 'folder'):
    return ()
  path = pathlib.PurePath(path)
  return (*path.parent.parts, path.stem if kind == 'table' else path.name)


def _fit(name):
  """A valid task name; a long name is cut and gets a digest, and a name without
  letters and digits becomes one."""
  given = unicodedata.normalize('NFC', name)
  name = re.sub(r'[^\w.]+', '-', given).strip('-.')
  if not name:
    digest = hashlib.sha256(given.encode('utf-8', 'surrogatepass')).hexdigest()
    return f'source-{digest[:8]}'
  if len(name.encode()) <= tasks.LONGEST:
    return name
  start = name.encode()[:_KEPT].decode(errors='ignore').strip('-.')
  return f'{start}-{hashlib.sha256(name.encode()).hexdigest()[:8]}'
