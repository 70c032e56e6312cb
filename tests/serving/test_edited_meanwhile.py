"""Edits of one process while another one reads; what a process can't send."""

import copy
import pickle

import pytest
import tiny

import mtl_jax
from mtl_jax.serving import verification
from mtl_jax.storage import json_records


def test_a_task_that_goes_while_it_is_verified_is_no_fault(tmp_path):
  folder = tiny.learned(tmp_path / 'run', 'few')
  system, other = mtl_jax.load(folder), mtl_jax.load(folder)
  seen = []

  def edit(name):
    if not seen:
      other.rename('permuted-01', 'renamed')  # not read yet
      other.delete('permuted-12')
    seen.append(name)
  result = verification.check(system, edit)
  assert result.faults == [] and result.tasks == len(seen)
  assert not any('renamed' in note or 'log knows' in note
                 for note in result.notes)


def test_a_task_that_goes_while_the_log_is_read_is_no_fault(
    tmp_path, monkeypatch):
  folder = tiny.learned(tmp_path / 'run', 'few')
  system, other = mtl_jax.load(folder), mtl_jax.load(folder)
  went = json_records.came_and_went

  def read_and_delete(lines):
    monkeypatch.undo()
    found = went(lines)
    other.delete('permuted-12')
    return found
  monkeypatch.setattr(json_records, 'came_and_went', read_and_delete)
  assert verification.check(system).faults == []


@pytest.mark.parametrize('send', [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_system_is_not_sent_to_another_process(tmp_path, send):
  system = mtl_jax.load(tiny.learned(tmp_path / 'run', 'few'))
  with pytest.raises(TypeError, match='send the path from which it was loaded'):
    send(system)
