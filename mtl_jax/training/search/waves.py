"""How many children of a generation one compiled call trains."""

from collections.abc import Callable

import jax


def one_by_one() -> bool:
  """Whether a device trains children one after another: a CPU's cores are busy
  with one.
  """
  return jax.default_backend() == 'cpu'


def largest(children: int, need: Callable[[int], int | None],
            available: int | None, name: str) -> int:
  """The most children that fit into the memory of a device.

  Args:
    children: children of a generation on each device; all of them are trained
      in one call if they fit.
    need: (children per device) -> bytes on each device; `None` if unknown.
    available: bytes that each device has for them; `None` if unknown.
    name: name of the phase.

  Raises:
    ValueError: a single child does not fit; names remedies.

  >>> largest(8, lambda each: 10 + 5 * each, 31, 'grow')
  4
  """
  each = children
  while available is not None:
    bytes_ = need(each)
    if bytes_ is None or bytes_ <= available:
      break
    if each == 1:
      raise ValueError(
          f'phase {name}: training one child needs about {bytes_ / 1e6:.1f} MB '
          f'of memory on a device, which has {available / 1e6:.1f} MB for it; '
          'give a smaller batch_size, suite.image_shape or backbone')
    # A part of the need does not grow with the children, so that more of them
    # than this share can't fit.
    each = max(1, min(each // 2, int(each * available / bytes_)))
  return each
