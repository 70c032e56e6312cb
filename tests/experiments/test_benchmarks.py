"""The benchmarks run and compare equal work; nothing here is timed."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / 'experiments' / 'benchmarks'
sys.path.insert(0, str(FOLDER))

import convolution_step  # noqa: E402 pylint: disable=wrong-import-position
import gem_resnet18_step  # noqa: E402 pylint: disable=wrong-import-position
import generation  # noqa: E402 pylint: disable=wrong-import-position
import jax_cases  # noqa: E402 pylint: disable=wrong-import-position
import identify_cost  # noqa: E402 pylint: disable=wrong-import-position
import kernel_gradient  # noqa: E402 pylint: disable=wrong-import-position
import mixed_batch  # noqa: E402 pylint: disable=wrong-import-position
import segment_step  # noqa: E402 pylint: disable=wrong-import-position
import subnetwork_step  # noqa: E402 pylint: disable=wrong-import-position
import supermask_step  # noqa: E402 pylint: disable=wrong-import-position
import table  # noqa: E402 pylint: disable=wrong-import-position
import timing  # noqa: E402 pylint: disable=wrong-import-position
from mtl_jax import methods  # noqa: E402 pylint: disable=wrong-import-position


@pytest.fixture(scope='module')
def setup():
  return jax_cases.make_setup(count=2, batch=8)


def test_product_scan_returns_the_last_step(setup):
  for input_gradients in (False, True):
    last = jax_cases.product_scan(setup, input_gradients)()
    kernels = [layer['kernel'] for _, layer in sorted(setup.backbone.items())]
    expected = jax_cases.products(
        kernels, setup.images[-1].reshape(8, -1), input_gradients)
    for got, want in zip(last, expected):
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-2)


def test_flops_of_lenet(setup):
  assert jax_cases.product_flops(setup, False) == 2 * 8 * 2 * 266_200
  assert jax_cases.product_flops(setup, True) == 2 * 8 * (
      2 * 266_200 + 300 * 100 + 100 * 10)


@pytest.mark.slow
def test_sorting_steps_train_as_top_k_does(setup):
  ours = jax_cases.step_scan(setup, methods.make(
      'supsup', sampler='top_k', density=0.5))()
  for method in (jax_cases.by_sort(0.5), jax_cases.by_argsort(0.5)):
    other = jax_cases.step_scan(setup, method)()
    np.testing.assert_allclose(other[1].loss, ours[1].loss, rtol=1e-5)


def test_convolutions_of_all_forms_train_alike():
  losses = [convolution_step.make_run(form, (3,), 4, 2)()
            for form in convolution_step.FORMS]
  for other in losses[1:]:
    np.testing.assert_allclose(other, losses[0], rtol=1e-4)


@pytest.mark.slow
def test_combine_equals_tensordot(setup):
  basis = jax_cases.random_basis(setup, 3)
  ours, other = (jax_cases.combine_scan(setup, basis, 2, as_float)()
                 for as_float in (False, True))
  for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(other)):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_chunks_run_in_turn_and_at_once(setup):
  tasks = 2 if jax.device_count() == 1 else jax.device_count()
  in_turn = jax_cases.chunk_run(setup, 2, tasks, source_size=16)()
  at_once = jax_cases.chunk_run(setup, 2, tasks, True, source_size=16)()
  last = jax.tree.map(lambda x: x[-1, -1], at_once[0][0].trainable)
  for got, want in zip(jax.tree.leaves(last),
                       jax.tree.leaves(in_turn[0][-1].trainable)):
    np.testing.assert_allclose(got, want, atol=1e-3)


@pytest.mark.filterwarnings('ignore')  # PyTorch's own, while it compiles
@pytest.mark.parametrize('compiled', [False, pytest.param(
    True, marks=pytest.mark.slow)])
def test_torch_does_the_same_step(compiled):
  pytest.importorskip('torch', reason='needs the extra "bench" (PyTorch)')
  setup = jax_cases.make_setup(count=20, batch=128)
  _, ours = jax_cases.step_scan(setup, methods.make('supsup'))()
  other = supermask_step.torch_run(setup, 20, compiled)()
  np.testing.assert_allclose(other, ours.loss, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings('ignore')  # PyTorch's own, while it compiles
@pytest.mark.parametrize('kind', [(False, False), (True, False), pytest.param(
    (True, True), marks=pytest.mark.slow)], ids=str)
def test_torch_trains_the_same_resnet(kind):
  pytest.importorskip('torch', reason='needs the extra "bench" (PyTorch)')
  small = gem_resnet18_step.make_setup(3, batch=8, width=4, side=16)
  np.testing.assert_allclose(gem_resnet18_step.torch_run(small, *kind)(),
                             gem_resnet18_step.make_run(small)(), rtol=1e-3)


@pytest.mark.slow
def test_resnets_are_measured_by_the_clock_and_by_cores():
  small = gem_resnet18_step.make_setup(1, batch=jax.device_count(), width=2,
                                       side=8)
  lines = gem_resnet18_step.measure(small, 2, rivals={})
  assert lines[0]['name'] == gem_resnet18_step.OURS
  assert lines[1]['name'] == (
      gem_resnet18_step.CHUNK + f' on {jax.device_count()} devices'
      if jax.device_count() > 1 else gem_resnet18_step.CHUNK)
  lines += [lines[1] | {'name': 'other', 'target': 1e9, 'at_least': True},
            {'name': 'torch', 'failed': 'not there'}]
  text = table.render_resnet([line | timing.origin() for line in lines])
  assert 'at least 1e+09x by both (missed)' in text
  assert '| torch | failed: not there |' in text
  assert lines[0]['core_ms_median'] > 0


def test_kernel_gradients_are_measured_in_blocks_of_several_sizes():
  lines = kernel_gradient.measure('tiny', (10, 6, 3, 4, 3, 2), 2, 1)
  assert [line['name'] for line in lines] == [
      '4', '8', 'all', kernel_gradient.TAKEN, kernel_gradient.FORWARD]
  text = table.render_kernels([line | timing.origin() for line in lines])
  assert '| tiny: 10 of 6x6x3 to 4, 3x3, stride 2 | ' in text


def test_only_tables_of_a_gpu_that_exist_are_shown(tmp_path):
  assert table.on_gpu(tmp_path) == ''
  line = {'group': 'g', 'name': 'a step', 'ms_median': 2., 'ms_min': 1.,
          'load': [0., 1.], **timing.origin()}
  (tmp_path / 'threshold_parts.jsonl').write_text(json.dumps(line) + '\n')
  assert table.on_gpu(tmp_path).startswith(
      f'### `threshold_parts.py`\n\n{table.render([line])}')


def test_timing_and_table():
  cases = [timing.Case('a', lambda: None, 1),
           timing.Case('b', lambda: None, 2, 'a', 1.3, flops=1.),
           timing.Case('c', lambda: None, 1, 'a', 3., at_least=True)]
  rows = timing.summarise(
      cases, {'a': jnp.array([1., 2.]), 'b': jnp.array([2., 4.]),
              'c': jnp.array([2., 4.])})
  assert rows[1]['ratio'] == 2. and rows[0]['ms_min'] == 1.
  assert set(timing.interleave(cases, 2)) == {'a', 'b', 'c'}
  origin = supermask_step.origin()
  lines = [dict(row, group='g', load=[1., 2.], **origin) for row in rows]
  text = table.rewrite(f'x\n{table.BEGIN}\nold\n{table.END}\ny',
                       table.render(lines))
  assert 'old' not in text and 'at most 1.3x (missed)' in text
  assert 'at least 3x (missed)' in text


def test_mixed_batch_compares_equal_outputs(tmp_path):
  system = mixed_batch.make_system(tmp_path, 4)
  members, _ = mixed_batch.cases(system, 4, 8)
  mixed, calls, dense, at_once = (case.run() for case in members)
  calls, dense = np.stack(calls), np.stack(dense)
  np.testing.assert_allclose(dense, calls, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(at_once, calls, rtol=1e-5, atol=1e-5)
  order = np.lexsort(calls.reshape(8, 10).T)
  mixed = np.asarray(mixed)
  np.testing.assert_allclose(mixed[np.lexsort(mixed.T)],
                             calls.reshape(8, 10)[order], rtol=1e-5, atol=1e-5)


def test_mixed_batch_lines_and_table(tmp_path):
  system = mixed_batch.make_system(tmp_path, 2)
  lines = [line | timing.origin()
           for line in mixed_batch.measure(system, (1, 2), 4, rounds=1)]
  assert [line['tasks'] for line in lines] == [1] * 4 + [2] * 4
  text = table.render_mixed(lines)
  assert '| *kB a task* | 33 | 266 | 1065 | 1065 |' in text
  assert len([row for row in text.splitlines() if row.startswith('|')]) == 5


def test_inference_is_measured_against_the_gradient_alone():
  lines = identify_cost.measure(tasks=(3, 5), rounds=1)
  assert [line['name'] for line in lines] == [
      'gradient alone, 1 at once', '3', '5',
      'gradient alone, 64 at once', '3', '5']
  packed = 3 * (784 * 300 + 300 * 100 + 100 * 500) // 8
  assert lines[1]['bytes'] > packed and lines[0]['bytes'] is None
  rendered = table.render_identify([line | timing.origin() for line in lines])
  assert '| 5 |' in rendered


def test_an_ordinary_network_has_the_multiply_adds_of_a_path():
  def sizes(active, width):
    network = segment_step.network('loop', active, active, width)
    params, _ = jax.eval_shape(
        lambda k: network.init(k, segment_step.SHAPE), jax.random.key(0))
    # Behind the first level, which reads one channel whatever the width.
    return [sum(x.size for x in jax.tree.leaves(params[f'level{i}'])
                if x.ndim == 4) for i in range(2, 10)]
  assert sizes(4, 4) == sizes(1, 8) and sizes(4, 4) != sizes(2, 8)


@pytest.mark.slow
def test_subnetwork_steps_are_timed_and_their_memory_counted():
  lines = subnetwork_step.measure([2, 4], batch=8, width=16, rounds=1)
  assert [line['name'] for line in lines] == [
      f'{tasks} tasks: {step}' for tasks in (2, 4)
      for step in ('a dense step each', 'one step of subnetworks')]
  dense, folded = lines[2:]
  assert dense['state_bytes'] == 4 * folded['state_bytes'] > 0
  # Members run in a loop: four take hardly more than two.
  assert folded['temporary_bytes'] < 1.5 * lines[1]['temporary_bytes']
  assert 'one step of subnetworks' in table.render_subnetworks(
      [line | timing.origin() for line in lines])


@pytest.mark.slow
def test_a_generation_is_measured(tmp_path):
  run = generation.make_run(tmp_path, steps=1, batch=8, images=200)
  found = generation.one_iteration(run)
  assert found['programs'] <= generation.PROGRAMS and found['times'] > 0
  line, = generation.at_once(run, (1,), 1)[:1]
  assert line['children_per_minute'] > 0
