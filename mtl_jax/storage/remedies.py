"""The remedy for a damaged checkpoint, by the folder in which it is."""

import pathlib

_REMEDIES = {
    'probe': '; restore the folder from a copy, or start the run\'s command, '
             'which makes it again',
    'progress': '; restore the folder from a copy, or remove it: what was not '
                'finished is then learned again from its start',
    'shared': '; restore the folder from a copy: it cannot be made again, but '
              'by a new run in another workdir',
}


def of(path: pathlib.Path) -> str:
  """The end of an error sentence about a damaged checkpoint of a workdir."""
  if path.parent.name in _REMEDIES:
    return _REMEDIES[path.parent.name]
  kept = path.parent.parent / 'shared'
  if path.parent.name == 'tasks' and kept.is_dir() and any(kept.iterdir()):
    # A phase whose tasks start from what the task before them kept.
    return ('; restore the folder from a copy. Without one, remove it and '
            'start the run\'s command: it makes the task again or says why it '
            'cannot')
  return '; restore the folder from a copy, or remove it to have it made again'
