"""Who holds a workdir, as those are told who find it held."""

import pytest

from mtl_jax.storage import folder_lock


def test_a_thread_of_this_process_is_no_other_process(tmp_path):
  with folder_lock.held(tmp_path):
    with pytest.raises(ValueError, match='another thread of this process work'):
      with folder_lock.held(tmp_path):
        pass


def test_a_holder_that_is_gone_meanwhile(tmp_path):
  with folder_lock.held(tmp_path):
    (tmp_path / '.holder').unlink()
    (tmp_path / '.holder').mkdir()  # can't be read, as if it was just removed
    with pytest.raises(ValueError, match=r'another process \(unknown\) works'):
      with folder_lock.held(tmp_path):
        pass
    (tmp_path / '.holder').rmdir()
