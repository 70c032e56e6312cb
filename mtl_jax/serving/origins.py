"""Checks whether a user's file still defines the method or model of a run.

A changed file may still give the same networks (a changed comment, or a config
beside the method), so a task's outputs on its probe decide.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from mtl_jax import aliases
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import registry

T = TypeVar('T')
_REMEDY = '. Pass the file that the run was made with as plugins'


def changed(metadata: dict, recipe: dict) -> str:
  """What to say if the task's method or model is defined by another file now.

  Args:
    metadata: of a stored task.
    recipe: of the backbone.

  Returns:
    A sentence without its end, or ''.
  """
  method = metadata['method']
  found = (
      registry.changed(method.get('defined_in'),
                       methods.METHODS.origin(method['name'])),
      registry.changed(recipe.get('defined_in'),
                       models.MODELS.origin(recipe['model'])))
  return '; '.join(dict.fromkeys(sentence for sentence in found if sentence))


def call(name: str, said: str, function: Callable[[], T]) -> T:
  """What a user's function gives; if it fails, a sentence.

  Args:
    name: of the task.
    said: by `changed`.
    function: without arguments.

  Raises:
    ValueError: it raised something else, and its file has changed.
  """
  try:
    return function()
  except ValueError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    if not said:
      raise
    # A user's function may raise anything.
    raise ValueError(f'task {name} cannot be made again: '
                     f'{type(error).__name__}: {error}; {said}{_REMEDY}'
                     ) from error


def check(name: str, said: str, outputs: Callable[[], aliases.Images],
          probe: np.ndarray) -> None:
  """Refuses a task whose outputs are no longer those of its commit.

  Args:
    name: of the task.
    said: by `changed`; nothing is computed if it is ''.
    outputs: () -> its outputs on the probe images now.
    probe: those at its commit.

  Raises:
    ValueError: they differ by more than rounding, or can't be computed.
  """
  if not said:
    return
  found = np.asarray(call(name, said, outputs))
  if not (found.shape == probe.shape and np.allclose(
      found, probe, rtol=1e-3, atol=2e-2 * float(np.max(np.abs(probe))))):
    raise ValueError(f'task {name} gives other outputs than when it was '
                     f'learned: {said}{_REMEDY}')
