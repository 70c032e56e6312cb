"""What helps against a damaged checkpoint, by the folder in which it lies."""

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
  """The end of a sentence that says a checkpoint of a workdir is damaged."""
  if path.parent.name in _REMEDIES:
    return _REMEDIES[path.parent.name]
  kept = path.parent.parent / 'shared'
  if path.parent.name == 'tasks' and kept.is_dir() and any(kept.iterdir()):
    # Of a phase whose tasks go on from what the one before them kept.
    return ('; restore the folder from a copy. Without one, remove it and '
            'start the run\'s command: it makes the task again or says why it '
            'cannot')
  return '; restore the folder from a copy, or remove it to have it made again'
