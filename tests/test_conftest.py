"""What decides which tests run."""

import conftest
import pytest


def test_parts_are_all_of_the_tests_once():
  parts = [conftest.part_of(list(range(10)), f'{k}/4') for k in range(1, 5)]
  assert sorted(sum(parts, [])) == list(range(10))
  assert max(map(len, parts)) - min(map(len, parts)) <= 1
  for wrong in ('0/4', '5/4', '1', 'a/b'):
    with pytest.raises(pytest.UsageError, match='write K/N'):
      conftest.part_of([1], wrong)


@pytest.mark.parametrize('reason, found', [
    ('Skipped: mnist is not prepared in /data; see mtl_jax.data.sources',
     'mnist'),
    ("Skipped: data set 'cmaterdb/bangla' is not prepared", 'cmaterdb'),
    ('Skipped: emnist is not prepared in /mnist', None),
    ('Skipped: slow; run with --slow', None),
])
def test_a_skipped_test_of_data_that_are_there_is_found(reason, found):
  assert conftest.there(reason, ['cmaterdb', 'kmnist', 'mnist']) == found
