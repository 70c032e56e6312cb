"""300 random single faults: the same as before, or one clear sentence.

Never a traceback, never another answer. The faults are drawn by a seed, so a
failure names a number that can be tried again by itself.
"""

import functools
import json
import math
import random
import shutil

import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.data import sources
from mtl_jax.report import figures
from mtl_jax.serving import verification

IMAGES = sources.load('digits').test.images[:3]
FILES, CONFIGS, AT_ONCE = 220, 80, 10
# What main, verify and a server turn into one line.
SAID = (ValueError, OSError, FloatingPointError)


def config():
  """Masks, coefficients, a running mean that is kept, networks stored once."""
  made = tiny.get_config('few')
  phases = made.phases.to_dict()
  dense = dict(method='dedicated', steps=4, batch_size=16, optimizer='adam',
               learning_rate=1e-2, tasks=(0, 1), control=True)
  made.phases = {
      'basis': phases['basis'],
      'transfer': dict(phases['basis'], tasks=(2, 4),
                       options=dict(transfer=True)),
      'impress': phases['impress'], 'one': dense, 'two': dict(dense)}
  made.schedule = tuple(made.phases)
  made.mixed_rows = 10
  return made


def make(fields):
  return tiny.config_lib.from_dict(fields)


@functools.cache
def whole():
  """(folder of a good run, its summary, answers by task, bits)."""
  folder = tiny.pathlib.Path(tiny.new_folder()) / 'run'
  summary = tiny.learn(make(config().to_dict()), folder)
  return folder, summary, answers(mtl_jax.load(folder)), tiny.bits(folder)


def answers(system):
  """Of all tasks, alone and mixed; raises what any of them raises."""
  names = system.tasks
  x = np.repeat(IMAGES[:1], len(names), 0)
  mixed = np.asarray(system.predict_mixed(x, names))
  return {name: (np.asarray(system.predict(IMAGES, task=name)), mixed[i])
          for i, name in enumerate(names)}


def sentence(ask):
  """What `ask` returns, or the one sentence that it raises."""
  try:
    return ask(), None
  except SAID as error:
    said = str(error)
    assert said and '\n' not in said.strip(), said
    assert len(said.split()) > 3 and 'Traceback' not in said, said
    return None, said


# What can happen to a file or folder. Each returns what it did.


def truncate(rng, run, path):
  content = path.read_bytes()
  path.write_bytes(content[:rng.randrange(max(1, len(content)))])


def empty(rng, run, path):
  path.write_bytes(b'')


def delete(rng, run, path):
  path.unlink()


def flip(rng, run, path):
  content = bytearray(path.read_bytes() or b'?')
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(bytes(content))


def strange_byte(rng, run, path):
  content = path.read_bytes()
  at = rng.randrange(len(content) + 1)
  path.write_bytes(content[:at] + b'\xff' + content[at:])


def swap_files(rng, run, path):
  other = rng.choice([p for p in files(run) if p.name == path.name])
  mine, others = path.read_bytes(), other.read_bytes()
  path.write_bytes(others)
  other.write_bytes(mine)


def to_folder(rng, run, path):
  path.unlink()
  path.mkdir()


def edit(rng, run, path):
  """Another value somewhere in a JSON file, or in one of its lines."""
  try:
    lines = [json.loads(line) for line in (
        path.read_text().splitlines() if path.suffix == '.jsonl'
        else [path.read_text()])]
  except ValueError:
    return flip(rng, run, path)
  at = rng.randrange(len(lines))
  lines[at] = edited(rng, lines[at])
  path.write_text('\n'.join(map(json.dumps, lines)) + '\n')
  return None


STRANGE = (None, True, 0, -1, 3, 1e300, 10 ** 30, math.nan, '', 'x', [], [1],
           {}, {'kind': 1})


def edited(rng, value):
  """A JSON value with one of its parts exchanged, left out or added."""
  if isinstance(value, dict) and value and rng.random() < .9:
    key = rng.choice(sorted(value))
    kind = rng.random()
    if kind < .15:
      return {k: v for k, v in value.items() if k != key}
    if kind < .25:
      return value | {f'{key}2': value[key]}
    return value | {key: edited(rng, value[key])}
  if isinstance(value, list) and value and rng.random() < .6:
    at = rng.randrange(len(value))
    return [*value[:at], edited(rng, value[at]), *value[at + 1:]]
  return rng.choice(STRANGE)


def remove_folder(rng, run, path):
  shutil.rmtree(folder_of(rng, run, path))


def swap_folders(rng, run, path):
  folder = folder_of(rng, run, path)
  others = [p for p in folder.parent.iterdir() if p.is_dir() and p != folder]
  if others:
    other, between = rng.choice(sorted(others)), run / 'between'
    folder.rename(between)
    other.rename(folder)
    between.rename(other)


def copy_folder(rng, run, path):
  folder = folder_of(rng, run, path)
  others = [p for p in folder.parent.iterdir() if p.is_dir() and p != folder]
  target = rng.choice(sorted(others) + [folder.with_name('permuted-99')])
  shutil.rmtree(target, ignore_errors=True)
  shutil.copytree(folder, target)


def folder_of(rng, run, path):
  parents = [p for p in path.parents if run in p.parents]
  return rng.choice(parents) if parents else rng.choice(
      [p for p in sorted(run.iterdir()) if p.is_dir()])


FAULTS = (truncate, empty, delete, flip, strange_byte, swap_files, to_folder,
          edit, edit, edit, remove_folder, swap_folders, copy_folder)


def files(run):
  return sorted(p for p in run.rglob('*') if p.is_file())


def harm(number, run):
  """Does the fault of a number to a run; says what it was."""
  rng = random.Random(number)
  places = files(run)
  top = [p for p in places if p.parent == run]
  path = rng.choice(top if rng.random() < .4 else places)
  fault = rng.choice(FAULTS)
  fault(rng, run, path)
  return f'{fault.__name__} {path.relative_to(run)} ({number})'


def same_answers(found):
  _, _, right, _ = whole()
  for name, (alone, mixed) in found.items():
    assert name in right, name
    np.testing.assert_array_equal(alone, right[name][0])
    np.testing.assert_allclose(mixed, right[name][1], rtol=1e-4, atol=1e-4)


def survive(number, run):
  """Asks all that may be asked of a harmed run."""
  folder, summary, right, bits = whole()
  shutil.copytree(folder, run)
  what = harm(number, run)
  try:
    system, said = sentence(lambda: mtl_jax.load(run))
    if system is not None:
      found, said = sentence(lambda: answers(system))
      same_answers(found or {})
      for name in right:  # each by itself: one fault leaves the others alone
        alone, why = sentence(
            lambda name=name: system.predict(IMAGES, task=name))
        assert (alone is None) == (why is not None)
        if alone is not None:
          np.testing.assert_array_equal(alone, right[name][0])
      proof, failed = sentence(lambda: verification.check(mtl_jax.load(run)))
      if proof is not None and not proof.faults:
        assert said is None or set(system.tasks) < set(right), said
        assert not failed
      for fault in proof.faults if proof else ():
        assert '\n' not in fault and len(fault.split()) > 3, fault
    again, refused = sentence(
        lambda: tiny.learn(make(config().to_dict()), run))
    assert (again is None) == (refused is not None)
    if again is not None and again['verified']['ok']:
      assert {k: v for k, v in tiny.bits(run).items() if k in bits} == bits
      assert again['matrix'] == summary['matrix']
      assert again['metrics'] == summary['metrics']
      same_answers({k: v for k, v in answers(mtl_jax.load(run)).items()
                    if k in right})
  except Exception as error:
    raise AssertionError(f'{what}: {type(error).__name__}: {error}') from error
  finally:
    shutil.rmtree(run)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # Orbax's, of what it can't read
@pytest.mark.parametrize('first', range(0, FILES, AT_ONCE))
def test_a_harmed_file_or_folder(tmp_path, monkeypatch, capfd, first):
  # Most of the time of a finished run, and the same for all of them.
  monkeypatch.setattr(figures, 'draw', lambda records, summary: [])
  for number in range(first, first + AT_ONCE):
    survive(number, tmp_path / f'{number}')
    assert 'Traceback' not in capfd.readouterr().err, number  # of any thread


# Configs.

ABSURD = {  # sizes that no memory or patience holds
    'batch_size': 10 ** 9, 'eval_batch_size': -5, 'chunk_steps': 0,
    'seed': 10 ** 30, 'learning_rate': math.inf, 'steps': -10 ** 9,
    'progress_seconds': -math.inf, 'mixed_rows': 1, 'size': 10 ** 6}


def harm_config(number):
  """(what it was, the fields of a config with one fault)."""
  rng = random.Random(number)
  fields = config().to_dict()
  node, path = fields, []
  while True:
    key = rng.choice(sorted(node))
    path.append(key)
    if not isinstance(node[key], dict) or not node[key] or (
        rng.random() < .15):
      break
    node = node[key]
  kind = rng.choice(('type', 'name', 'nan', 'absurd'))
  if kind == 'name':
    node[f'{key}s'] = node.pop(key)
  elif kind == 'absurd' and key in ABSURD:
    node[key] = ABSURD[key]
  elif kind == 'nan':
    node[key] = math.nan
  else:
    node[key] = rng.choice([v for v in STRANGE if type(v) is not type(
        node[key])] + [object(), {1: 2}, (1, 'a'), b'x', np.zeros(2)])
  return f'{kind} of {".".join(path)}: {node.get(key)!r} ({number})', fields


@pytest.mark.slow
@pytest.mark.parametrize('first', range(0, CONFIGS, AT_ONCE))
def test_a_harmed_config(first):
  for number in range(first, first + AT_ONCE):
    what, fields = harm_config(number)
    try:
      sentence(lambda fields=fields: tiny.check(make(fields)))
    except Exception as error:
      raise AssertionError(
          f'{what}: {type(error).__name__}: {error}') from error
