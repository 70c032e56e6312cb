"""A pool: one impression for the images of several tasks."""

import dataclasses

import pytest
import tiny

from mtl_jax.config import plan
from mtl_jax.data import suites


def phase():
  return tiny.only('basis', kind='few', phases__basis__pool=True).phases[0]


def split(**options):
  return suites.make('split', source='digits', classes_per_task=2,
                     **options).tasks


def test_an_output_of_a_pool_is_one_class():
  with pytest.raises(ValueError, match=(
      'output 0 of a pool would be class 0 of split-00 and class 2 of '
      'split-01; give suite.shared_outputs=False')):
    plan.pool_task(phase(), split()[:2])
  apart = split(shared_outputs=False)
  assert plan.pool_task(phase(), apart[:3]).labels is None  # the remedy
  last = dataclasses.replace(apart[2], labels=(-1, -1, 9, *apart[2].labels[3:]))
  with pytest.raises(ValueError, match='class 2 of split-01 and class 9'):
    plan.pool_task(phase(), (*apart[:2], last))


def test_tasks_of_the_same_classes_keep_them_in_a_pool():
  first = split()[1]
  again = dataclasses.replace(first, name='again')
  assert plan.pool_task(phase(), (first, again)).labels == (2, 3)
