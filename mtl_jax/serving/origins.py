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


def call(metadata: dict, recipe: dict, function: Callable[[], T]) -> T:
  """Calls a user's function; if it fails, raises a readable error.

  Args:
    metadata: metadata of a stored task.
    recipe: recipe of the backbone.
    function: () -> result.

  Raises:
    ValueError: the function failed, and is a user's.
  """
  try:
    return function()
  except ValueError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    method = metadata.get('method') or {}
    own = method.get('defined_in') or {}
    said = changed(metadata, recipe) if method else ''
    if not said and not own:
      raise
    # A user's function may raise anything.
    why = f'{said}{_REMEDY}' if said else (
        f'correct the method in {own["file"]}, which may need nothing but what '
        'is stored')
    raise ValueError(f'task {metadata["name"]} cannot be made again: '
                     f'{type(error).__name__}: {error}; {why}') from error


def check(metadata: dict, recipe: dict,
          outputs: Callable[[], aliases.Images], probe: np.ndarray) -> None:
  """Refuses a task whose outputs have changed since its commit.

  Args:
    metadata: metadata of a stored task; if nothing has changed, nothing is
      computed.
    recipe: recipe of the backbone.
    outputs: () -> its current outputs on the probe images.
    probe: its outputs at the commit.

  Raises:
    ValueError: they differ by more than rounding, or can't be computed.
  """
  said = changed(metadata, recipe)
  if not said:
    return
  found = np.asarray(call(metadata, recipe, outputs))
  if not (found.shape == probe.shape and np.allclose(
      found, probe, rtol=1e-3, atol=2e-2 * float(np.max(np.abs(probe))))):
    raise ValueError(f'task {metadata["name"]} gives other outputs than when '
                     f'it was learned: {said}{_REMEDY}')
