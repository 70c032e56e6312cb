"""Arrays of a file go to a network's leaves by name, or are refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.models import pretrained

KNOWN = {'a/bias': jnp.zeros(3), 'a/kernel': jnp.zeros((2, 3)),
         'head/kernel': jnp.full((3, 4), 7.), 'stats/n/mean': jnp.zeros(3)}
RANDOM = np.random.RandomState(0)
FILE = {'net.a.b': RANDOM.rand(3), 'net.a.w': RANDOM.rand(2, 3),
        'net.n.running_mean': RANDOM.rand(3), 'net.fc.w': RANDOM.rand(3, 9),
        'steps': np.array(5)}
FILE = {name: array.astype(np.float32) for name, array in FILE.items()}
NAMES = (('net.fc.*', None), ('steps', None), (r'net\.a\.w', 'a/kernel'),
         (r'net\.(\w)\.b', r'\1/bias'), (r'.*\.n\.running_(.*)', r'stats/n/\1'))
FRESH = ('head/.*',)


def fill(arrays=None, names=NAMES, fresh=FRESH, known=None):
  return pretrained.fill('f.npz', FILE if arrays is None else arrays,
                         KNOWN if known is None else known, names, fresh, None,
                         None, (8, 8, 1))


def test_patterns_bring_arrays_to_leaves_and_statistics():
  found = fill()
  assert list(found) == list(KNOWN)
  np.testing.assert_array_equal(found['a/kernel'], FILE['net.a.w'])
  np.testing.assert_array_equal(found['a/bias'], FILE['net.a.b'])
  np.testing.assert_array_equal(found['stats/n/mean'],
                                FILE['net.n.running_mean'])
  np.testing.assert_array_equal(found['head/kernel'], 7.)


def test_the_first_pattern_that_matches_decides():
  names = ((r'net\.a\.(b|w)', None), *NAMES)
  with pytest.raises(ValueError, match=(
      r"'net\\\\.a\\\\.w' of backbone.names is the first to match no name of "
      'f.npz')):
    fill(names=names)


def test_a_pattern_that_stands_there_twice_is_refused():
  with pytest.raises(ValueError, match="'steps' of backbone.names is the first"
                                       ' to match no name'):
    fill(names=(*NAMES, ('steps', 'a/bias')))


def test_a_file_of_which_nothing_would_be_used_is_refused():
  with pytest.raises(ValueError, match=(
      r"backbone.fresh, \('.\*',\), names every leaf, so that nothing of f.npz "
      'would be used; name fewer')):
    fill(fresh=('.*',))


def test_a_variance_below_zero_is_refused():
  """As when means and variances are exchanged."""
  known = KNOWN | {'stats/n/var': jnp.zeros(3)}
  swapped = FILE | {'net.n.running_var': np.array([1, -1, 0], np.float32)}
  with pytest.raises(ValueError, match=(
      'net.n.running_var of f.npz has numbers below 0, and the leaf '
      'stats/n/var is a variance; correct backbone.names .*backbone.fresh')):
    fill(swapped, known=known)
  fill(swapped, known=known, fresh=(*FRESH, 'stats/n/var'))
  fill(FILE | {'net.n.running_var': np.ones(3, np.float32)}, known=known)


@pytest.mark.parametrize('order', ['>', '<'])
def test_either_order_of_bytes_is_read(order):
  found = fill(FILE | {'net.a.w': FILE['net.a.w'].astype(f'{order}f2')})
  np.testing.assert_array_equal(found['a/kernel'],
                                FILE['net.a.w'].astype(np.float16))


def test_names_of_a_flax_checkpoint_and_paths_need_no_patterns():
  flax = {'params/a/kernel': FILE['net.a.w'], 'params/a/bias': FILE['net.a.b'],
          'batch_stats/n/mean': FILE['net.n.running_mean'],
          'params/head/kernel': np.ones((3, 4), np.float32)}
  found = fill(flax, None, ())
  paths = {name: np.asarray(array) for name, array in found.items()}
  for name, array in fill(paths, None, ()).items():
    np.testing.assert_array_equal(array, found[name])
  # A fresh leaf takes nothing, even if the file has it.
  np.testing.assert_array_equal(fill(flax, None)['head/kernel'], 7.)


def test_narrow_floats_are_widened_and_others_refused():
  half = {name: array.astype(jnp.bfloat16) for name, array in FILE.items()}
  found = fill(half)
  assert {str(leaf.dtype) for leaf in found.values()} == {'float32'}
  np.testing.assert_array_equal(
      found['a/kernel'], half['net.a.w'].astype(np.float32))
  for dtype in (np.float64, np.int32):
    wrong = FILE | {'net.a.w': FILE['net.a.w'].astype(dtype)}
    with pytest.raises(ValueError, match=(
        f'net.a.w of f.npz is {np.dtype(dtype)}, but the leaf a/kernel is '
        'float32; write it into the file as float32')):
      fill(wrong)
    fill(wrong | {'net.a.w': wrong['net.a.w'].astype(np.float32)})


def test_a_leaf_that_is_not_filled_is_named_and_each_remedy_works():
  less = {name: a for name, a in FILE.items() if name != 'net.a.b'}
  names = [pair for pair in NAMES if pair[1] != r'\1/bias']
  with pytest.raises(ValueError, match='f.npz fills no a/bias. Give '
                                       'backbone.names .* or .*backbone.fresh'):
    fill(less, names)
  fill(less, names, (*FRESH, 'a/bias'))
  with pytest.raises(ValueError, match=(
      'f.npz fills no a/bias; arrays that no leaf takes: net.a.b. Give')):
    fill(FILE, names)
  fill(FILE, (*names, (r'net\.a\.b', 'a/bias')))


def test_arrays_that_no_leaf_takes_are_listed_and_left_out_if_asked():
  more = FILE | {f'ema.{i}': np.zeros(1) for i in range(5)}
  with pytest.raises(ValueError, match=(
      'arrays that no leaf takes: ema.0, ema.1, ema.2 and 2 more. Give '
      r'.*leave them out: \(.ema')):
    fill(more)
  fill(more, (*NAMES, ('ema.*', None)))


def test_two_names_do_not_go_to_one_leaf():
  names = (*NAMES[:2], (r'net\.a\.(w|b)', 'a/kernel'), NAMES[-1])
  with pytest.raises(ValueError, match='net.a.b and net.a.w of f.npz both go '
                                       'to the leaf a/kernel; .*None'):
    fill(names=names)


@pytest.mark.parametrize('array, text', [
    (np.zeros((3, 2)), r'net.a.w of f.npz has shape \(3, 2\), but the leaf '
     r'a/kernel is \(2, 3\); transpose it in the file'),
    (np.zeros((2, 5)), r'has shape \(2, 5\), but the leaf a/kernel is '
     r'\(2, 3\); choose the model .* backbone.fresh'),
    (np.array([[0, 1, np.nan]] * 2), 'net.a.w of f.npz holds NaN or infinity; '
     'take another file, or name a/kernel in backbone.fresh'),
    (np.array([[0, 1, np.inf]] * 2), 'holds NaN or infinity')])
def test_arrays_that_do_not_fit_are_named(array, text):
  wrong = FILE | {'net.a.w': array.astype(np.float32)}
  with pytest.raises(ValueError, match=text):
    fill(wrong)
  fill(wrong, fresh=(*FRESH, 'a/kernel'))


def test_a_fresh_pattern_matches_a_leaf():
  with pytest.raises(ValueError, match="'heads' matches no leaf .*did you"):
    fill(fresh=('heads',))


@pytest.mark.parametrize('names, text', [
    ((('a', 'b', 'c'),), 'give pairs'), (('a', 'b'), 'give pairs'),
    (((3, 'a'),), 'give pairs'), ((('a', 3),), 'give pairs'),
    ((('(', 'a'),), 'no pattern with its replacement: missing'),
    ((('a(.)', r'\2'),), 'invalid group reference 2'),
    ((('a(.)', r'\g<x>'),), 'unknown group name')])
def test_names_that_are_no_pairs_are_refused(names, text):
  with pytest.raises(ValueError, match=text):
    pretrained.check_names(names)
  pretrained.check_names(NAMES)
