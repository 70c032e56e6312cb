"""Checks that a network, such as a user's own, keeps the contract."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import fields
from mtl_jax import tracing
from mtl_jax.models import network as network_lib

_ROWS = 2  # images in the traced batch
_MAY_BE_0 = ('num_layers', 'noise')
# Options that count parts, each of which is made by itself.
_COUNTS, MOST = ('blocks', 'modules', 'num_layers'), 10_000


def options(name: str, factory: Callable, given: Mapping[str, Any],
            own: bool) -> dict[str, Any]:
  """Returns a model's options as plain, hashable values.

  Args:
    name: name of the model, for messages.
    factory: the function that makes it.
    given: options from a config.
    own: whether the model is one of this package, whose numbers are sizes.

  Raises:
    ValueError: an option has another type than the factory's hints say;
      names it.
  """
  frozen = {key: fields.frozen(value) for key, value in given.items()}
  fields.require_plain(frozen, 'backbone.options')
  try:
    hints = fields.hints_of(factory)
  except ValueError:  # a user's function may have any, or none
    return frozen
  fields.check_types(hints, frozen, 'backbone.options.')
  for key, value in frozen.items() if own else ():
    least = 0 if key in _MAY_BE_0 else 1e-30
    numbers = [number for number in (
        value if isinstance(value, tuple) else (value,))
               if isinstance(number, (int, float))
               and not isinstance(number, bool)] if key in hints else []
    if any(number < least for number in numbers):
      raise ValueError(f'backbone.options.{key} of {name} is {value!r}; it '
                       f'must be {"at least" if least == 0 else "above"} 0')
    if key in _COUNTS and sum(numbers) > MOST:
      raise ValueError(f'backbone.options.{key} of {name} is {value!r}; it '
                       f'must be at most {MOST:,}')
  return frozen


def check(name: str, network: network_lib.Network, outputs: int,
          shapes: Sequence[tuple], own: bool = True) -> None:
  """Traces initialisation, training and prediction; computes nothing.

  Args:
    name: name of the model, for messages.
    network: what its factory returned.
    outputs: number of logits that it must give.
    shapes: shapes of the inputs; for tokens ('int32', length).
    own: whether it is a user's own, which may be no pure function.

  Raises:
    ValueError: the network fails, or it gives something else than float32
      [n, outputs], or something else each time; names the model, the call and
      the result.
  """
  # One draw gives the weights for all shapes.
  given = tuple(shapes) if len(shapes) > 1 else shapes[0]
  key = jax.eval_shape(lambda: jax.random.key(0))
  doing = (f'model {name}: making its weights for inputs '
           f'{" and ".join(str(_said(shape)) for shape in shapes)}')
  draw = lambda k: network.init(k, given)
  params, stats = _traced(doing, draw, key)
  if own:
    _require_pure(doing, draw, key)
  for shape in shapes:
    numbers = [n for n in shape if n != 'int32']
    x = jax.ShapeDtypeStruct((_ROWS, *numbers), jnp.int32 if (
        shape[0] == 'int32') else jnp.float32)
    for train in (False, True):
      call = functools.partial(network.apply, train=train)
      given_key = {'key': key} if network.random and train else {}
      doing = (f'model {name}: {"training on" if train else "predicting"} '
               f'inputs {_said(shape)}')
      traced = (lambda p, s, x, k, call=call: call(p, s, x, **k),
                params, stats, x, given_key)
      logits = _traced(doing, *traced)[0]
      found = getattr(logits, 'shape', type(logits).__name__)
      # With parallel modules every task has its own head.
      heads = network.trace is not None and len(found) == 2
      if found != (_ROWS, outputs) and not heads:
        raise ValueError(
            f'{doing} gives {_of_rows(found)} where the config says '
            f'backbone.outputs={outputs}: it must return logits [n, {outputs}]')
      if logits.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f'{doing} gives {logits.dtype} logits; it must return float32: '
            'logits.astype(jax.numpy.float32), of numbers that have gradients')
      if own:
        _require_pure(doing, *traced)


def _said(shape) -> list:
  return list(shape)


def _of_rows(found: Any) -> str:
  """A shape, with n for the batch axis."""
  if not isinstance(found, tuple):
    return f'a {found}'
  rows = ['n' if n == _ROWS and i == 0 else str(n) for i, n in enumerate(found)]
  return f'[{", ".join(rows)}]'


def _traced(doing: str, function, *arguments):
  """The shapes of a function's results.

  Raises:
    ValueError: the function raised an error, which the message contains.
  """
  try:
    found = jax.eval_shape(function, *arguments)
  except OSError:
    raise
  except ValueError as error:
    raise ValueError(f'{doing}: {error}') from error
  except Exception as error:  # pylint: disable=broad-except # a user's code
    said = ' '.join(str(error).split())
    kind = type(error).__name__
    hint = ''
    if kind == 'InvalidRngError':
      hint = ("; a network's own random numbers come from the stream "
              "'dropout'")
    raise ValueError(f'{doing} failed: {kind}: {said[:400]}{hint}') from error
  if not isinstance(found, tuple) or len(found) != 2:
    raise ValueError(f'{doing} gives a {type(found).__name__}; a Network gives '
                     'pairs, as models.from_linen, from_nnx and from_functions '
                     'make them')
  return found


def _require_pure(doing: str, function, *arguments) -> None:
  """Refuses a function that is another one each time it is traced."""
  try:
    same = tracing.program(function, *arguments) == (
        tracing.program(function, *arguments))
  except Exception:  # pylint: disable=broad-except # kept from another trace
    same = False
  if not same:
    raise ValueError(
        f'{doing} computes something else each time, so that no task could be '
        'read again: it must be a pure function. Draw with the key that is '
        "given (a module's dropout has one), not with random or numpy.random, "
        'and keep nothing in Python variables')


def made(name: str, make: Callable[[], Any]) -> network_lib.Network:
  """Calls a factory and checks that it returns a `Network`.

  Args:
    name: name of the model.
    make: calls the factory.

  Raises:
    ValueError: the factory fails or returns something else; says how to make a
      Network of it.
  """
  try:
    found = make()
  except (ValueError, OSError):
    raise
  except Exception as error:  # pylint: disable=broad-except # a user's code
    raise ValueError(f'model {name}: the function registered for it failed: '
                     f'{type(error).__name__}: {error}') from error
  if isinstance(found, network_lib.Network):
    return found
  kind = type(found).__name__
  bases = {base.__module__.split('.')[1] for base in type(found).__mro__
           if base.__module__.startswith('flax.')}
  remedy = ('models.from_linen(module)' if 'linen' in bases else
            'models.from_nnx(make)' if 'nnx' in bases else
            'models.from_linen, from_nnx or from_functions')
  raise ValueError(f'model {name}: the function registered for it returned a '
                   f'{kind}, not a Network; return {remedy}')
