"""The methods by name. Each is a factory that returns a `base.Method`."""

from collections.abc import Callable

from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import dedicated
from mtl_jax.methods import impresslearn
from mtl_jax.methods import joint
from mtl_jax.methods import munet
from mtl_jax.methods import part
from mtl_jax.methods import subnetworks
from mtl_jax.methods import supsup

Method = base.Method
Route = base.Route


def _supsup(sampler='threshold', density=None, eps=None, absolute=True,
            masked=('.*kernel',), transfer=False):
  return supsup.supsup(supsup.sampler(sampler, density, eps, absolute),
                       base.as_patterns(masked), transfer)


def _impresslearn(penalty=0., head=None, sampler='threshold', density=None,
                  eps=None, absolute=True):
  return impresslearn.impresslearn(
      penalty, head, supsup.sampler(sampler, density, eps, absolute))


def _dedicated(trained=('.*',)):
  return dedicated.dedicated(base.as_patterns(trained))


def _joint(own=(), carry=False):
  return joint.joint(base.as_patterns(own), carry)


def _subnetworks(own=None, sharing=False):
  return subnetworks.subnetworks(None if own is None else
                                 base.as_patterns(own), sharing)


METHODS: dict[str, Callable[..., Method]] = {
    'dedicated': _dedicated,
    'impresslearn': _impresslearn,
    'joint': _joint,
    'munet': munet.munet,
    'part': part.part,
    'subnetworks': _subnetworks,
    'supsup': _supsup,
}


def make(name: str, **options) -> Method:
  """The method `name` with plain options, as a config gives them.

  Raises:
    ValueError: unknown name (lists the known ones and the nearest) or option.
  """
  if name not in METHODS:
    raise ValueError(f'unknown method {name!r}{trees.nearest(name, METHODS)}; '
                     f'known: {", ".join(sorted(METHODS))}')
  return trees.call(f'method {name}', METHODS[name], options)
