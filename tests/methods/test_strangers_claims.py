"""What a stranger's method declares, and keeps where nothing is stored."""

import collections
import functools
import types

import configs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strangers import GOOD, bind, commit, config, init, materialise

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import methods
from mtl_jax.methods import base

KEPT: dict = {}


class Kind(type):
  """Of a class, whose variables can't be exchanged."""


class Holder(metaclass=Kind):
  """Of an object that keeps something."""


HELD = Holder()
able = lambda **given: dict(abilities=base.Abilities(**given))


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
  """What a test registers is gone after it, and nothing is kept."""
  monkeypatch.setattr(methods.METHODS, '_known', dict(methods.METHODS))
  monkeypatch.setattr(methods, '_OPTIONS', dict(methods._OPTIONS))
  KEPT.clear()
  vars(HELD).clear()
  yield
  methods.of_options.cache_clear()


def scaled(factor):
  """GOOD, whose updates are scaled by `factor(shared)`."""
  return dict(
      prepare=lambda context: {'scale': 2 * jnp.ones(())},
      bind=lambda backbone, pairs, shared, route: bind(
          backbone, jax.tree.map(lambda x: x * factor(shared), pairs), {},
          route),
      materialise=lambda backbone, impression, shared: materialise(
          backbone, impressions.Impression(parts=jax.tree.map(
              lambda x: x * factor(shared), impression.parts)), {}))


def changing(function, at):
  """The function, after it has changed what it is given."""
  def changed(*given):
    leaf = next(iter(given[at]))
    given[at][leaf] = jax.tree.map(lambda x: 2 * x, given[at][leaf])
    return function(*given)
  return changed


def keeping(function):
  """The function, which keeps in Python that it was called."""
  def kept(*given):
    KEPT['called'] = True
    return function(*given)
  return kept


def if_called(backbone, impression, shared):
  made = materialise(backbone, impression, shared)
  return made if KEPT else jax.tree.map(lambda x: x + 1, made)


class Kept:
  """Of a method that keeps something in a class."""
  count = 0


class Plain:
  pass


def in_a_closure():
  count = 0

  def more():
    nonlocal count
    count += 1
  return more, lambda: count


def by_a_default(add, kept=[0]):  # pylint: disable=dangerous-default-value
  kept[0] += add
  return kept[0]


COUNTS = np.zeros(3, int)
DEFAULT = collections.defaultdict(int)
QUEUE = collections.deque()
OBJECT = Plain()
NESTED = {'deep': [Plain()]}
CLOSURE = in_a_closure()
SET: set = set()
TUPLE = (frozenset(), ([],))
SPACE = types.SimpleNamespace(n=0)


def in_a_list(kept, count):
  kept[0] += count
  return kept[0]


class Counter:
  """Of which a method keeps one function alone."""

  def __init__(self):
    self.count = 0

  def more(self, count):
    self.count += count
    return self.count


def by_a_name(count, *, kept=[0]):  # pylint: disable=dangerous-default-value
  kept[0] += count
  return kept[0]


def recursive():
  """Of a variable that is never assigned."""
  def called():
    return never()
  if called is None:
    never = called
  return called


PARTIAL = functools.partial(in_a_list, [0])
BOUND = Counter().more
EMPTY = recursive()
NUMBER = 0


def more_number():
  global NUMBER
  NUMBER += 1


def add(holder, name='n'):
  setattr(holder, name, getattr(holder, name, 0) + 1)


# Where a method may keep how often it was called: (to add one, the number).
PLACES = {
    'class': (lambda: add(Kept, 'count'), lambda: Kept.count),
    'global': (more_number, lambda: NUMBER),
    'closure': CLOSURE,
    'default': (lambda: by_a_default(1), lambda: by_a_default(0)),
    'named default': (lambda: by_a_name(1), lambda: by_a_name(0)),
    'function': (lambda: add(more_number), lambda: getattr(more_number, 'n', 0)
                 ),
    'array': (lambda: COUNTS.__setitem__(1, COUNTS[1] + 1),
              lambda: int(COUNTS[1])),
    'defaultdict': (lambda: DEFAULT.__setitem__('n', DEFAULT['n'] + 1),
                    lambda: DEFAULT['n']),
    'deque': (lambda: QUEUE.append(0), lambda: len(QUEUE)),
    'object': (lambda: add(OBJECT), lambda: getattr(OBJECT, 'n', 0)),
    'set': (lambda: SET.add(len(SET)), lambda: len(SET)),
    'tuple': (lambda: TUPLE[1][0].append(0), lambda: len(TUPLE[1][0])),
    'namespace': (lambda: add(SPACE), lambda: SPACE.n),
    'partial': (lambda: PARTIAL(1), lambda: PARTIAL(0)),
    'bound': (lambda: BOUND(1), lambda: BOUND(0)),
    'nested': (lambda: add(NESTED['deep'][0]),
               lambda: getattr(NESTED['deep'][0], 'n', 0)),
}


@pytest.mark.parametrize('what', ['materialise', 'bind'])
@pytest.mark.parametrize('place', PLACES)
def test_a_variable_that_changes_what_is_computed_is_found(place, what):
  """Wherever it is: it is kept that commit was called, once for all."""
  more, number = PLACES[place]
  function = {'materialise': materialise, 'bind': bind}[what]

  def after(*given):
    if number() == before:
      more()
    return commit(*given)
  before = number()
  given = config(lambda: GOOD._replace(commit=after, **{
      what: lambda *given: jax.tree.map(
          lambda x: x + 1e-5 * (number() > before), function(*given))}))
  with pytest.raises(ValueError, match=f'{what} .*Python variables'):
    configs.check(given)


@pytest.mark.parametrize('place', PLACES)
def test_what_a_check_of_variables_exchanges_is_as_it_was(place):
  more, number = PLACES[place]
  more()
  kept = number()
  configs.check(config(lambda: GOOD))
  assert number() == kept


def masked(**changes):
  """A method of masks alone."""
  sample = masks.straight_through(masks.threshold)
  return methods.Method(
      lambda key, backbone, shared, route: base.kaiming_uniform(key, backbone),
      lambda backbone, scores, shared, route: masks.apply(
          shared.get('over', backbone), sample(scores)),
      lambda backbone, scores, shared, route: (
          impressions.Impression(masks=masks.threshold(scores)), shared),
      lambda backbone, impression, shared: masks.apply(
          shared.get('over', backbone), impression.masks))._replace(**changes)


def test_sound_claims_are_kept():
  KEPT['before'] = True
  configs.check(config(lambda: GOOD._replace(
      **scaled(lambda shared: shared['scale']), **able(needs_earlier=True))))
  configs.check(config(lambda: masked(**able(
      superposes=True, streams=True, folds=base.Folds(
          'tree', lambda backbone: backbone)))))
  configs.check(config(lambda: GOOD._replace(**able(
      carries=lambda one, later: later))))
  assert KEPT == {'before': True}


@pytest.mark.parametrize('changes, sentence', [
    # What a process that loads the task has not.
    (scaled(lambda shared: shared['scale']),
     'materialise reads `shared`, .* unless the abilities .* declare needs_e'),
    (scaled(lambda shared: len(shared['scale'].shape) + 1),
     "materialise, with the empty `shared` .* fails: KeyError: 'scale'"),
    (scaled(lambda shared: shared['scale']) | able(needs_earlier=True) | dict(
        prepare=lambda context: {'scale': jnp.ones(()) * len(
            context.group.routes)}),
     'prepare, without context.group as when a stored task is loaded, fails: '
     "AttributeError: 'NoneType'"),
    (scaled(lambda shared: shared['scale']) | able(needs_earlier=True) | dict(
        prepare=lambda context: {'scale': jnp.ones(()) * (
            2 if context.group else 3)}),
     'materialise gives .* with other values than bind'),
    (scaled(lambda shared: 2) | able(needs_earlier=True) | dict(
        prepare=lambda context: {} if context.group else None),
     'prepare, without .* must return `shared` as a dict of arrays; it '
     'returned a NoneType'),
    (dict(facts=lambda: {}['lost']), "facts fails: KeyError: 'lost'"),
    (dict(bind=keeping(bind), materialise=if_called),
     'materialise computes something else where neither init nor bind nor'),
    (dict(bind=lambda *given: vars(HELD).update(n=1) or bind(*given),
          materialise=lambda *given: jax.tree.map(
              lambda x: x + (not vars(HELD)), materialise(*given))),
     'materialise computes something else where neither init nor bind nor'),
    (dict(commit=keeping(commit), materialise=lambda *given: (
        KEPT['called'] and materialise(*given))),
     r"materialise fails \(KeyError\('called'\)\) where neither"),
    # What later tasks would find changed.
    *((dict({name: changing(function, at=at)}),
       f'{name} changes a dict that it is given')
      for name, function, at in (('init', init, 1), ('bind', bind, 0),
                                 ('bind', bind, 1), ('commit', commit, 0),
                                 ('materialise', materialise, 0))),
    (dict(prepare=lambda context: context.backbone.clear() or {}),
     'prepare changes a dict that it is given'),
    # What another start would draw otherwise.
    *((dict({name: lambda *given, f=function: jax.tree.map(
        lambda x: x * np.random.rand(), f(*given))}),
       f'{name} computes something else when it is called again')
      for name, function in (('init', init), ('bind', bind),
                             ('materialise', materialise))),
    (dict(penalty=lambda pairs: np.random.rand() * sum(
        jnp.sum(x) for x in jax.tree.leaves(pairs))),
     'penalty computes something else when it is called again'),
    # Abilities that the functions don't have.
    (able(superposes=True), 'the ability superposes is declared, .* commit '
     'leaves an Impression'),
    (able(streams=True), 'the ability streams is declared, .* task is masks '
     'over the backbone; commit leaves an Impression'),
    (able(carries=lambda one: one), 'carries fails: TypeError'),
    (able(carries=lambda one, later: None), 'carries must return an impressi'),
    (able(carries=lambda one, later: impressions.Impression(parts={
        'pairs': {}})), 'materialise, of what carries gives, fails: KeyError'),
    (able(folds=base.Folds('tree', lambda backbone: None)),
     'folds.part must give leaves of the backbone'),
    (able(folds=base.Folds('tree', lambda backbone: backbone)),
     'commit leaves no mask of Dense_0/kernel'),
    (able(folds=base.Folds(3, None)), 'give a name of the tree, and a func'),
    (able(banks=base.Banks(lambda trainable: {}, bind)),
     'banks.rows must give .* for each bank'),
    (able(members=True) | dict(bind=lambda backbone, pairs, shared, route: bind(
        backbone, pairs, shared, (route,)[route.member])),
     'bind, with a traced route.member as the ability members has it, reads'),
])
def test_a_claim_that_does_not_hold_is_refused(changes, sentence):
  given = config(lambda: GOOD._replace(**changes))
  with pytest.raises(ValueError, match=f'phase a: .*{sentence}'):
    configs.check(given)


def test_masks_over_another_network_are_not_superposed():
  method = masked(
      prepare=lambda context: {'over': jax.tree.map(
          lambda w: 2 * w, context.backbone)},
      **able(superposes=True, needs_earlier=True))
  with pytest.raises(ValueError, match='materialise reads `shared`, which tas'):
    configs.check(config(lambda: method))


@pytest.mark.parametrize('watch, sentence', [
    (lambda settings: None, 'watch must return a watch.Watch; it returned a N'),
    (lambda: 1, 'watch fails: TypeError'),
])
def test_what_is_no_watch_is_refused(watch, sentence):
  config(lambda: GOOD._replace(**able(watch=watch)))
  with pytest.raises(ValueError, match=f'phase a: method mine: {sentence}'):
    configs.check(configs.small(
        phases__a=dict(method='mine', tasks=(0, 2), epochs=1),
        phases__b=configs.REMOVED, schedule=('a',)))
