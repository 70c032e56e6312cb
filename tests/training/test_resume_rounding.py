"""What resumes soundly where XLA rounds otherwise in every process."""

import jax
import numpy as np
import pytest
import tiny
import tiny_subnetworks as little

import mtl_jax
from mtl_jax.methods import allocation
from mtl_jax.storage import checkpoint
from mtl_jax.training import commit
from mtl_jax.training import drivers
from mtl_jax.training import loop
from mtl_jax.training import ownership

PARALLEL = dict(net=dict(together='joint', tasks=(0, 2)))


def other_scores(*_):
  """Stands for gradients that this process rounds otherwise."""
  random = np.random.RandomState(7)
  return lambda w: random.rand(*w.shape).astype(np.float32)


def stop_after(monkeypatch, module, name, calls: int):
  """The named function raises once it has been called so often."""
  original, seen = getattr(module, name), []

  def stopping(*arguments):
    found = original(*arguments)
    seen.append(0)
    if len(seen) == calls:
      raise tiny.Stopped
    return found
  monkeypatch.setattr(module, name, stopping)


def test_who_owns_what_is_not_decided_again(tmp_path, monkeypatch):
  """Saved weights go on under the owners that they were trained with."""
  config = little.get_config(**PARALLEL)
  config.progress_seconds = 0.
  config = little.make(config)
  tiny.train_alone(config, tmp_path / 'whole')
  with monkeypatch.context() as patch:
    stop_after(patch, loop, 'save', 1)
    with pytest.raises(tiny.Stopped):
      tiny.train_alone(config, tmp_path / 'killed')
  original = ownership.scores
  monkeypatch.setattr(ownership, 'scores', lambda *a: jax.tree.map(
      other_scores(), original(*a)))
  tiny.train_alone(config, tmp_path / 'killed')
  assert tiny.bits(tmp_path / 'killed') == tiny.bits(tmp_path / 'whole')


def test_all_entries_of_a_group_come_from_one_state(tmp_path, monkeypatch):
  """Killed between its commits, a group isn't trained once more."""
  config = little.make(**PARALLEL)
  tiny.train_alone(config, tmp_path / 'whole')
  with monkeypatch.context() as patch:
    stop_after(patch, commit, 'commit', 1)
    with pytest.raises(tiny.Stopped):
      tiny.train_alone(config, tmp_path / 'killed')
  tasks = tmp_path / 'killed' / 'tasks'
  assert len([p for p in tasks.iterdir() if checkpoint.exists(p)]) == 1
  monkeypatch.setattr(ownership, 'scores', lambda run, entry, like: (
      jax.tree.map(other_scores(), like)))
  make = drivers.make
  monkeypatch.setattr(drivers, 'make', lambda *a: make(*a)._replace(
      advance=None))
  tiny.train_alone(config, tmp_path / 'killed')
  assert tiny.bits(tmp_path / 'killed') == tiny.bits(tmp_path / 'whole')
  assert list((tmp_path / 'killed' / 'progress').iterdir()) == []
  system = mtl_jax.load(tmp_path / 'killed')
  allocation.fold([system.own_part(n).values for n in system.tasks],
                  little.own_masks(system, system.tasks))
