"""One contract for every method; see `tiny_methods` for the rows."""

import types

import jax
import numpy as np
import pytest
from tiny_methods import (BACKBONE, CASES, DRAWS, ROUTE, alive, context_of,
                          learned, left_of, shapes_of)

from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.methods import heads
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.storage import impression_arrays
from mtl_jax.training import trace


def test_every_method_has_a_case():
  assert {case.method for case in CASES.values()} == set(methods.METHODS)


@pytest.mark.parametrize('case', CASES)
class TestContract:
  """What holds for every method, with any options."""

  def test_gradients_are_finite_and_reach_every_trainable_leaf(self, case):
    *_, trainable, gradient = learned(case)
    assert jax.tree.leaves(trainable)
    trees.check_same_structure(gradient, trainable)
    for name, g in trees.flatten(gradient).items():
      if g is not None:
        assert np.isfinite(g).all() and np.any(g), name

  def test_bind_keeps_the_backbones_shapes_and_other_leaves(self, case):
    found = learned(case)
    for route in CASES[case].routes:
      params, like = found.bind(route), found.backbone
      path = found.commit(route)[0].path
      if path is not None:
        like = path.take(like)
      trees.check_same_structure(params, like)
      trees.check_shapes(params, like, 'bind')
      changed = {name for name, leaf in trees.flatten(params).items()
                 if trees.digest(leaf)
                 != trees.digest(trees.flatten(like)[name])}
      assert changed == (CASES[case].changed or set(trees.flatten(like)))

  def test_materialise_is_bind_bit_for_bit_with_and_without_jit(self, case):
    found = learned(case)
    method, backbone, shared, trainable, _ = found
    for route in CASES[case].routes:
      impression, after = found.commit(route)
      bind = lambda t, s, r=route: method.bind(backbone, t, s, r)
      make = lambda i, s: method.materialise(backbone, i, s)
      bound = bind(trainable, shared)
      for params in (jax.jit(bind)(trainable, shared),
                     make(impression, shared),
                     jax.jit(make)(impression, shared),
                     make(impression, after)):
        assert trees.digests(params) == trees.digests(bound)
      assert impressions.size_in_bytes(impression) > 0

  def test_a_stored_task_is_made_without_those_that_were_trained(self, case):
    """As a system reads it: from the disk, with a context of no group."""
    found, given = learned(case), CASES[case]
    # What was made by hand aside, `prepare` itself must not fail.
    own = methods.make(given.method, **given.options)
    assert isinstance(own.prepare(context_of(case, group=False)), dict)
    shared = (found.method.prepare(context_of(case, group=False))
              if found.method.abilities.needs_earlier else {})
    for route in given.routes:
      impression, _ = found.commit(route)
      arrays = {name: a for name, a in impression_arrays.impression_to_arrays(
          impression).items() if a is not None}
      stored = impression_arrays.arrays_to_impression(
          arrays, found.backbone, {},
          impression_arrays.impression_metadata(impression))
      params = found.method.materialise(found.backbone, stored, shared)
      assert trees.digests(params) == trees.digests(found.bind(route))

  def test_commit_changes_and_deletes_nothing(self, case):
    found = learned(case)
    held = (found.backbone, found.shared, found.trainable)
    before = trees.fingerprint(held)
    for route in CASES[case].routes:
      found.commit(route)
    assert alive(held) and trees.fingerprint(held) == before
    assert trees.fingerprint(found.backbone) == trees.fingerprint(
        CASES[case].backbone)

  def test_a_later_task_does_not_change_an_earlier_one(self, case):
    method, backbone, shared, first, _ = learned(case)
    second = learned(case, seed=1).trainable
    route = CASES[case].routes[0]
    impression, after = method.commit(backbone, first, shared, route)
    before = method.materialise(backbone, impression, after)
    _, after = method.commit(backbone, second, after, route)
    again = method.materialise(backbone, impression, after)
    assert trees.fingerprint(again) == trees.fingerprint(before)

  def test_init_is_a_function_of_the_key(self, case):
    method, backbone, shared, _, _ = learned(case)
    make = lambda seed: trees.fingerprint(method.init(
        jax.random.key(seed), backbone, shared, CASES[case].init_route))
    assert make(3) == make(3)
    assert (make(3) != make(4)) == (case in DRAWS)

  def test_a_method_is_a_key_and_one_object_for_equal_options(self, case):
    given = CASES[case]
    method = methods.make(given.method, **given.options)
    assert method is methods.make(given.method, **given.options)
    assert {method: 1}[method] == 1
    hash(given.make())
    again = jax.jit(lambda m, x: m.penalty(x), static_argnums=0)
    found = learned(case)
    assert np.isfinite(again(method, found.trainable))

  def test_the_check_before_training_foresees_what_is_left(self, case):
    """`trace.of_group` has the shapes and dtypes of what `commit` leaves."""
    given, found = CASES[case], learned(case)
    group = [types.SimpleNamespace(route=route, phase=types.SimpleNamespace(
        method='supsup',  # one of the library's
        together='joint' if len(given.routes) > 1 else None))
             for route in given.routes]
    shapes = trace.of_group(
        given.make(), backbone_lib.Backbone(None, given.backbone, {}, {}),
        [shapes_of(i) for i in left_of(given.earlier)], group, seed=0)
    assert shapes_of(found.commit(given.routes[0])[0]) == shapes.impression


@pytest.mark.parametrize('head', heads.KINDS)
@pytest.mark.parametrize('name', sorted(methods.METHODS))
def test_every_method_takes_a_kind_of_head_or_refuses_it(name, head):
  """Before anything is trained: a case of the contract, or a sentence."""
  if any(case.method == name and case.options.get('head') == head
         for case in CASES.values()):
    return
  plain = next(case for case in CASES.values() if case.method == name)
  with pytest.raises(ValueError, match=f"head is '{head}', but .*(leave head "
                                       'out|choose dense or none)'):
    method = methods.make(name, **plain.options | {'head': head})
    shared = method.prepare(methods.Context(
        BACKBONE, (), jax.random.key(0), methods.Group(
            (ROUTE,), {}, lambda number: BACKBONE, None)))
    method.commit(BACKBONE, method.init(jax.random.key(
        0), BACKBONE, shared, ROUTE), shared, ROUTE)


def test_unknown_methods_are_refused():
  with pytest.raises(ValueError, match=(
      r"unknown method 'supsub' \(did you mean: supsup\?\); known: batche, "
      'dedicated, impresslearn, .*supsup')):
    methods.make('supsub')
