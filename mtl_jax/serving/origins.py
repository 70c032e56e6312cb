"""Checks whether a user's file still defines the method or model of a run.

A changed file may still give the same networks (if only a comment or a config
beside the method changed), so a task's outputs on its probe decide.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from mtl_jax import aliases
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import registry

T = TypeVar('T')
_REMEDY = '. Pass the file that the run was made with as plugins (--plugins)'


def changed(metadata: dict, recipe: dict) -> str:
  """The message if another file now defines the task's method or model.

  Args:
    metadata: metadata of a stored task.
    recipe: recipe of the backbone.

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
  """Calls a user's function; if it fails, raises a readable error.

  Args:
    name: name of the task.
    said: from `changed`.
    function: () -> result.

  Raises:
    ValueError: the function failed, and its file has changed.
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
  """Refuses a task whose outputs have changed since its commit.

  Args:
    name: name of the task.
    said: from `changed`; if it is '', nothing is computed.
    outputs: () -> its current outputs on the probe images.
    probe: its outputs at the commit.

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
