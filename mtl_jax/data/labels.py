"""Checks labels, and collects what a run reports about its data.

Accuracy means nothing if a task has only one class, if a tested class was never
trained, or if every test image was trained on. Suites refuse such tasks unless
`incomplete=True` is given; the table and the report then repeat the fault.
Notes report facts that are not faults but should be known: classes without test
images, and test images that are also training images.
"""

from typing import NamedTuple

import numpy as np

from mtl_jax import trees
from mtl_jax.data import splits as splits_lib
from mtl_jax.data import tasks as tasks_lib

_CONTRADICTED = .01  # smallest share of the test images that gets a note
_SHOWN = 8  # largest number of classes in a sentence
_SPLITS = ('train', 'valid', 'test')


class Findings(NamedTuple):
  """Sentences about a task's data.

  Attributes:
    wrong: faults that make its accuracy meaningless.
    said: notes that are not faults.
  """
  wrong: tuple[str, ...]
  said: tuple[str, ...]


def require_training(source: splits_lib.Source) -> None:
  """Refuses a source with a class that has no training image."""
  count = _per_class(source)
  lacking = np.flatnonzero(count['train'] == 0)
  if not len(lacking):
    return
  held = count['valid'] + count['test']
  first = int(lacking[np.argmax(held[lacking])])
  if held[first]:
    raise ValueError(
        f'source {source.name!r}: {_named(source, [first])} has '
        f'{trees.counted(held[first], "image")}, none of them for training; '
        'add some there, or leave the class out')
  raise ValueError(
      f'source {source.name!r}: {_named(source, lacking)} '
      f'{"has" if len(lacking) == 1 else "have"} no images; labels count from '
      '0, so renumber them (np.unique(labels, return_inverse=True)[1]), or '
      f'give classes={source.classes}')


def refuse_copied_test(source: splits_lib.Source) -> None:
  """Refuses a source whose test split is its training split."""
  if all(source.repeated[split].all() for split in _SPLITS):
    raise ValueError(
        f'source {source.name!r}: its {len(source.test.labels)} test images '
        f'are its {len(source.train.labels)} training images; give a test '
        'split of other images, or none to have it split off')


def _findings(task: tasks_lib.Task, source: splits_lib.Source,
              view: tasks_lib.View) -> Findings:
  """The faults of a task's data, and notes about it."""
  wrong: list[str] = []
  said = list(source.notes)
  if not task.regression:
    _look_at_classes(task, source, view, wrong, said)
  where = f'source {source.name!r}'
  inputs = ('texts' if source.tokens else
            'images' if len(source.image_shape) == 3 else 'rows')
  repeated = source.repeated['test'][view.test]
  if any(view.dropped.values()):
    said.append(
        f'{where}: {view.dropped["train"]} training and '
        f'{view.dropped["valid"]} validation {inputs} were left out, which are '
        f'also test {inputs}')
  elif repeated.all() and not source.tokens:  # which are less than the texts
    wrong.append(f'{where}: every test {inputs[:-1]} is also a training or '
                 f'validation {inputs[:-1]}')
  elif repeated.any():
    said.append(
        f'{where}: {int(source.repeated["test"].sum()):,} of its '
        f'{len(source.test.labels):,} test {inputs} are also training or '
        f'validation {inputs} (suite.drop_shared=True leaves them out there)')
  if not (task.regression or source.tokens or any(view.dropped.values())):
    _look_at_copies(task, source, view, wrong, said)
  return Findings(tuple(wrong), tuple(said))


def _look_at_copies(task, source, view, wrong, said):
  """Images that stand in several classes, which no network can tell apart."""
  share = np.mean(source.contradicted[view.test]) if len(view.test) else 0
  if share == 1 and task.labels is None:
    wrong.append(f'source {source.name!r}: every test image also stands in '
                 'another class')
  elif share > _CONTRADICTED:
    said.append(f'source {source.name!r}: {share:.0%} of the test images also '
                'stand in another class')


def _look_at_classes(task, source, view, wrong, said):
  kept = np.array(range(source.classes) if task.labels is None
                  else task.labels)
  count = {split: np.bincount(
      view.label_map[getattr(source, split).labels[getattr(view, split)]],
      minlength=task.classes) for split in _SPLITS}
  train, test, valid = (count[split] for split in ('train', 'test', 'valid'))
  own, held = kept >= 0, valid + test
  say = lambda chosen, words: (
      f'source {source.name!r}: {_named(source, kept[chosen])} '
      f'{"has" if chosen.sum() == 1 else "have"} {words}')
  absent = own & (train + held == 0)
  untrained = own & (train == 0) & (held > 0)
  untested = own & (train > 0) & (test == 0)
  if (train > 0).sum() == 1:
    wrong.append(f'source {source.name!r}: {_named(source, kept[train > 0])} '
                 'is the only class with training images, so that every '
                 'answer is right')
  elif (test > 0).sum() == 1 and own.sum() > 1:
    said.append(f'source {source.name!r}: {_named(source, kept[test > 0])} is '
                'the only class with test images')
  elif untested.any():
    said.append(say(untested, 'no test images'))
  if untrained.any():
    wrong.append(say(
        untrained, trees.counted(held[untrained].sum(), 'image') + ' for '
        'validation and test but none for training'))
  if absent.any():
    wrong.append(say(absent, 'no images'))


def check(task: tasks_lib.Task, source: splits_lib.Source) -> None:
  """Refuses a task whose accuracy would mean nothing."""
  wrong = _findings(task, source, tasks_lib.view(task, source)).wrong
  if wrong:
    raise ValueError(
        f'task {task.name!r}: {wrong[0]}; mend the data, choose other classes, '
        'or say suite.incomplete=True to learn it all the same (the table will '
        'repeat this)')


def facts(task: tasks_lib.Task, source: splits_lib.Source) -> dict:
  """JSON values about the data, for a task's record.

  Returns:
    source: name of the source.
    images: number of images by split.
    repeated: number of test images that are also in another split.
    dropped: number of images by split that were left out for this reason.
    notes: sentences for the table and the report.
  """
  view = tasks_lib.view(task, source)
  wrong, said = _findings(task, source, view)
  result = {
      'source': source.name,
      'images': {split: len(getattr(view, split)) for split in _SPLITS},
      'repeated': int(source.repeated['test'][view.test].sum()),
      'notes': [*wrong, *said]}
  if task.drop_shared:
    result['dropped'] = view.dropped
  return result


def in_all(found: list[dict]) -> dict:
  """The facts of tasks of one source together: all their images and notes.

  >>> in_all([{'images': {'test': 3}, 'repeated': 1, 'notes': ['a']},
  ...         {'images': {'test': 2}, 'repeated': 0, 'notes': ['a', 'b']}])
  {'images': {'test': 5}, 'repeated': 1, 'notes': ['a', 'b']}
  """
  result = dict(found[0])
  for key in result.keys() & {'images', 'dropped'}:
    result[key] = {split: sum(own[key][split] for own in found)
                   for split in result[key]}
  return result | {
      'repeated': sum(own['repeated'] for own in found),
      'notes': list(dict.fromkeys(
          note for own in found for note in own['notes']))}


def label_map(task: tasks_lib.Task) -> list[int] | None:
  """The source's class of every output; -1 for outputs of other tasks.

  >>> label_map(tasks_lib.Task('t', 0, 'digits', (), None, 3))
  [0, 1, 2]
  """
  if task.regression:
    return None
  return list(range(task.classes) if task.labels is None else task.labels)


def class_names(task: tasks_lib.Task, source: splits_lib.Source):
  """Names of a task's outputs; `None` stands for an output of other tasks.

  Returns:
    List of str or `None`, one per output; `None` if the source has no class
    names, or if these are just the numbers.
  """
  names = source.class_names
  if names is None or names == tuple(map(str, range(len(names)))):
    return None
  kept = range(source.classes) if task.labels is None else task.labels
  return [names[label] if label >= 0 else None for label in kept]


def sentences(records: list[dict], most: int | None = None) -> list[str]:
  """Sentences from the records of a run about its data, each one once.

  Args:
    records: records of all tasks; `data` is from `facts`.
    most: largest number of sentences; the rest is counted.

  >>> sentences([{'data': {'notes': ['a', 'b']}}, {'data': {'notes': ['a']}},
  ...            {}], most=1)
  ['a', 'and 1 more about the data: see the report']
  """
  found = list(dict.fromkeys(
      note for record in records
      for note in (record.get('data') or {}).get('notes') or ()))
  if most is not None and len(found) > most:
    found[most:] = [f'and {len(found) - most} more about the data: see the '
                    'report']
  return found


def _per_class(source):
  return {split: np.bincount(getattr(source, split).labels,
                             minlength=source.classes) for split in _SPLITS}


def _named(source, classes):
  """'class 3', or 'classes 3 (cat), 5 (dog) and 7 more'."""
  names = source.class_names
  known = names is not None and names != tuple(map(str, range(len(names))))
  words = [f'{c} ({names[c]})' if known else str(c) for c in classes[:_SHOWN]]
  more = len(classes) - len(words)
  return (f'class{"" if len(classes) == 1 else "es"} {", ".join(words)}'
          + (f' and {more} more' if more else ''))
