"""Masks are compared weight by weight, so only those of the same leaves."""

import types

import numpy as np

from mtl_jax.evaluation import matrix
from mtl_jax.storage import workdir as workdir_lib

STORED = {
    'one': {'masks/a': [0b11], 'masks/b': [0b0, 0b1], 'probe': [0]},
    'two': {'masks/a': [0b10], 'masks/b': [0b0, 0b1], 'probe': [0]},
    'none': {'values/a': [1.], 'probe': [0]},
    'of other leaves': {'masks/a': [0b11], 'masks/c': [0b0, 0b1]},
    'of other sizes': {'masks/a': [0b11, 0b0], 'masks/b': [0b1]}}


def test_tasks_that_mask_other_leaves_are_left_out(tmp_path, monkeypatch):
  monkeypatch.setattr(matrix.checkpoint, 'load', lambda path: ({
      name: np.array(bits, np.uint8)
      for name, bits in STORED[path.name].items()}, {}))
  system = types.SimpleNamespace(workdir=workdir_lib.Workdir(tmp_path))
  found = matrix.mask_overlap(system, list(STORED))
  assert found == {'names': ['one', 'two'],
                   'matrix': [[1., 2 / 3], [2 / 3, 1.]]}
  assert matrix.mask_overlap(system, ['one', 'of other sizes']) is None
