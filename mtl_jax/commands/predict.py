"""`mtl-jax predict`: classes and probabilities, as CSV or JSON."""

import argparse
import csv
import fnmatch
import io
import json
import pathlib
import sys
from typing import Any

import numpy as np

from mtl_jax import lifecycle
from mtl_jax.commands import inputs
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import anywhere

DESCRIPTION = (
    'Predicts the class of images, its probability, and those of all '
    'classes. Without --task, all images must belong to one task and look as '
    'the task shows them (permuted, if it permutes them); it is inferred.')
EXAMPLES = (
    ('{} --workdir=runs/mine new/*.png --output=answers.csv',
     'image files; the only task of the run'),
    ('{} --workdir=runs/mine folder/of/images --task=birds --format=json',
     'a folder, at every depth'),
    ('{} --workdir=runs/quickstart digits.npz --task=permuted-03',
     "an array 'images' uint8 [n, H, W, C]"),
)


def flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for inputs, system and output."""
  parser.add_argument('inputs', nargs='+', metavar='INPUT', help=(
      'image files, folders of images, or npz files'))
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='workdir of a run, or an exported file')
  parser.add_argument('--task', metavar='NAME', help=(
      'name of the task; by default the only one, or inferred from the images'))
  parser.add_argument('--among', action='append', metavar='PATTERN', help=(
      "without --task, infer it among tasks with such names ('permuted-0*'); "
      'may be given several times'))
  parser.add_argument('--format', choices=('csv', 'json'), help=(
      "by default the suffix of --output, or else 'csv'"))
  parser.add_argument('--output', metavar='FILE',
                      help='file to write; by default the terminal')
  parser.add_argument('--batch_size', type=int, default=256, metavar='N',
                      help=(
                          'rows per call, and from which the task is inferred '
                          '(256)'))
  parser.add_argument('--plugins', action='append', metavar='FILE', help=(
      'a Python file that registers your own methods or models'))


def main(given: argparse.Namespace) -> int | None:
  """Predicts and writes."""
  if given.batch_size < 1:
    raise ValueError(f'--batch_size is {given.batch_size}; it must be at '
                     'least 1')
  if given.output is not None:
    place = anywhere.place(given.output)
    if isinstance(place, pathlib.Path) and place.is_dir():
      raise ValueError(f'--output={given.output} is a folder; name a file')
  inputs.require_other(given.output, given.inputs)
  form = given.format or (
      'json' if str(given.output).endswith('.json') else 'csv')
  system = lifecycle.load(given.workdir, given.plugins)
  task, read, shown = choose(system, given.task, given.inputs, given.among,
                             given.batch_size)
  known: dict[str, Any] = {'names': [task]} if shown else {'task': task}
  logits = np.concatenate([
      np.asarray(system.predict(read.rows[i:i + given.batch_size], **known))
      for i in range(0, len(read.rows), given.batch_size)])
  metadata = system.metadata(task)
  rows = answers(read.names, task, logits, metadata)
  text = _as_csv(rows) if form == 'csv' else json.dumps(
      rows, indent=2, ensure_ascii=False) + '\n'
  if given.output is None:
    sys.stdout.write(text)
  else:
    anywhere.write(given.output, text.encode())
  return None


def choose(system: system_lib.System, task: str | None,
           paths: list[str], among: list[str] | None = None,
           most: int = 256) -> tuple[str, inputs.Inputs, bool]:
  """The task to predict with, and its inputs.

  Args:
    system: the stored tasks.
    task: its name; `None` takes the only one, or infers it.
    paths: paths of the inputs.
    among: patterns of the names among which it is inferred.
    most: largest number of inputs, the first ones, from which it is inferred.

  Returns:
    The task, its inputs, and whether it was inferred, so that these are as the
    task shows them.

  Raises:
    ValueError: there is no such task, or it can't be inferred.
  """
  names = system.tasks
  if not names:
    raise ValueError(f'no finished task in {system.workdir.root}')
  if among is not None and task is not None:
    raise ValueError(f'--task={task} leaves nothing to infer among '
                     f'{", ".join(among)}; leave out --task or --among')
  if among is not None:
    every, names = names, [name for name in names if any(
        fnmatch.fnmatchcase(name, pattern) for pattern in among)]
    if not names:
      raise ValueError(f'--among={", ".join(among)}: no task has such a name; '
                       f'known: {", ".join(every[:20])}')
  if task is None and len(names) == 1:
    task, = names
  known = system.task(task) if task in names else None
  if task is not None and known is None:
    system.require(task)
  forms = {(tuple(m['source_shape']), m.get('source_dtype', 'uint8'))
           for m in ([known.metadata] if known else (
               system.metadata(name) for name in names))}
  if len(forms) > 1:
    raise ValueError(
        'the tasks take inputs of several kinds '
        f'({"; ".join(f"{d} {list(s)}" for s, d in sorted(forms))}): name one '
        f'with --task; known: {", ".join(names[:20])}')
  (shape, dtype), = forms
  read = inputs.read(paths, shape, dtype)
  if task is None:
    try:
      found = system.identify(read.rows[:most],
                              names=None if among is None else names)
    except ValueError as error:
      raise ValueError(
          f'no --task was named, and it can not be inferred: {error}. Name a '
          "task, or say --among='PATTERN'; known: "
          f'{", ".join(names[:20])}') from error
    print(f'note: by what the images show, their task is {found.task}',
          file=sys.stderr)
    return found.task, read, True
  return task, read, False


def answers(names: list[str], task: str, logits: np.ndarray,
            metadata: dict) -> list[dict[str, Any]]:
  """One dict per row: input, task, class, probability, and all probabilities.

  For a regression: input, task and value.

  Args:
    names: names of the rows.
    task: name of the task.
    logits: float32 [n, classes].
    metadata: metadata of the stored task.
  """
  if metadata.get('labels') is None and (
      metadata['record'].get('accuracy') or {}).get('test') is None:
    return [{'input': name, 'task': task, 'value': row.tolist()
             if len(row) > 1 else float(row[0])}
            for name, row in zip(names, logits)]
  called = class_names(metadata, logits.shape[1])
  own = [i for i, name in enumerate(called) if name is not None]
  scores = logits[:, own].astype(np.float64)
  scores = np.exp(scores - scores.max(1, keepdims=True))
  scores /= scores.sum(1, keepdims=True)
  best = scores.argmax(1)
  return [{'input': name, 'task': task, 'class': called[own[top]],
           'probability': round(float(row[top]), 6),
           'probabilities': {str(called[i]): round(float(p), 6)
                             for i, p in zip(own, row)}}
          for name, row, top in zip(names, scores, best)]


def class_names(metadata: dict, outputs: int) -> list[str | None]:
  """A name for every output; the number of the class if it has no name.

  `None` stands for an output of other tasks.
  """
  labels = metadata.get('labels') or list(range(outputs))
  named = metadata.get('class_names') or [None] * outputs
  return [None if label < 0 else str(label) if name is None else name
          for label, name in zip(labels, named)]


def _as_csv(rows: list[dict]) -> str:
  """CSV text, with a column for the probability of every class."""
  text = io.StringIO()
  flat = []
  for row in rows:
    row = dict(row)
    every = row.pop('probabilities', {})
    flat.append(row | {f'p({name})': p for name, p in every.items()})
  writer = csv.DictWriter(text, list(flat[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(flat)
  return text.getvalue()
