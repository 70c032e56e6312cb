"""Every config's header has its command, hardware, minutes and accuracy."""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'experiments'))

import collected  # noqa: E402 pylint: disable=wrong-import-position
import part_tables  # noqa: E402 pylint: disable=wrong-import-position

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def header(path):
  return ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_header_has_command_hardware_minutes_and_accuracy(path):
  text = header(path)
  command = ' '.join(text.replace('\\\n', ' ').split())
  assert re.search(
      rf'python -m mtl_jax\.main .*--config=configs/{path.name}'
      if path.stem != 'folder' else 'mtl_jax run --config=folder:', command)
  said = {line: re.search(rf'^{line}: (.+)$', text, flags=re.MULTILINE)
          for line in ('Hardware', 'Minutes', 'Accuracy')}
  assert all(said.values()), said
  page = re.search(r'^Results: (\S+)$', text, flags=re.MULTILINE)
  assert path.stem == 'quickstart' or (ROOT / page[1]).exists()
  made = [file for file in ROOT.glob('experiments/*/results/*_s[0-9]*.jsonl')
          if '.main ' in collected.read(file)[0]['command']
          and f'configs/{path.name}' in collected.read(file)[0]['command']]
  nothing = said['Accuracy'][1] == 'not run.'
  assert nothing == (not made) or path.stem == 'quickstart'


@pytest.mark.parametrize('name, folder, prefix, phase', [
    ('supsup_permuted_mnist', 'supsup', 'permuted_lenet', 'supermasks'),
    ('supsup_rotated_mnist', 'supsup', 'rotated_fc1024', 'supermasks'),
    ('supsup_2500_tasks', 'identity', 'supsup_2500', 'supermasks'),
    ('supsup_nameless_permuted_mnist', 'identity', 'nameless', 'stream'),
    ('impresslearn_permuted_mnist', 'impresslearn', 'permuted',
     'heterogeneous_3'),
    ('impresslearn_rotated_mnist', 'impresslearn', 'rotated',
     'heterogeneous_3'),
    ('subnetworks_mnist_fashion', 'subnetworks', 'mnist_fashion',
     'subnetworks'),
    ('part_five_tasks', 'part', 'five_tasks', 'part'),
    ('munet_root', 'munet', 'root', 'root'),
])
def test_a_headers_first_number_is_that_of_the_results(name, folder, prefix,
                                                       phase):
  runs = collected.runs(collected.HERE / folder, prefix)
  mean = float(part_tables.mean_accuracy(runs, phase).split()[0])
  said = re.search(r'^Accuracy: (\d+\.\d) %', header(
      ROOT / 'configs' / f'{name}.py'), flags=re.MULTILINE)
  assert float(said[1]) == pytest.approx(mean, abs=.06)
