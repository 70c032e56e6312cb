"""Accuracy if the task of a stream is unknown: a list of masks, or a memory.

    python experiments/hopsupsup/evaluate.py --workdir=DIR --split=valid
    python experiments/hopsupsup/evaluate.py --workdir=DIR --split=test \\
        --out=FILE.jsonl

DIR is a finished run of configs/hopsupsup_split_mnist.py. A stream is all
images of one task in a split, in an order drawn from the run's seed. The
recovered mask depends on that order. With `--orders=N`, recovery is repeated on
N orders of every stream; the other methods use the first of them. Only the
first method knows the task, and none sees a label. All but the first normalise
by the statistics of each batch, as the official code does:

  known_stored   the task's own mask and stored statistics (`evaluate` of the
                 library), as in a prediction for a known task
  known          the task's own mask
  bank_stream    the listed mask with the lowest entropy on the first batches
                 of the stream, as many as Hopfield's recovery reads
  bank_batch     the same, chosen for every batch
  one_shot       chosen for every batch from one gradient of the entropy of
                 all masks in superposition (SupSup, eq. 4)
  hopfield       the mask that `mtl_jax.inference.hopfield.recover` finds

`--decoys=N` stores N more random masks of the same densities in the memory, in
place of further tasks. The listed masks stay the same. `--grid`
tries learning rates and weights of the energy; it refuses the test split.
"""

import argparse
import functools
import itertools
import json
import pathlib
import re
import shlex
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mtl_jax
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.inference import hopfield
from mtl_jax.storage import json_records
from mtl_jax.storage import provenance

LEARNING_RATES = (500., 1500., 5000.)
GAMMAS = (1.5e-3, 5e-3, 1.5e-2)
METHODS = ('known_stored', 'known', 'bank_stream', 'bank_batch', 'one_shot',
           'hopfield')


class Stream(NamedTuple):
  """One task's images in batches of one size.

  Attributes:
    images: float32 [batches, n, H, W, C], transformed.
    labels: int32 [batches, n], among all outputs of the suite.
    counted: bool [batches, n]: False for images that are repeated to fill the
      last batch.
    first: float32 [steps, n, H, W, C]: images for recovery. A stream that is
      too short starts again.
  """
  images: Any
  labels: Any
  counted: Any
  first: Any


def make_stream(task: suites.Task, split: str, seed: int, size: int,
                steps: int) -> Stream:
  """A task's stream; see the module."""
  source = sources.load(task.source)
  view, arrays = suites.view(task, source), getattr(source, split)
  rows = np.random.RandomState(seed).permutation(getattr(view, split))
  whole = len(rows) // size * size
  index = rows[:whole].reshape(-1, size)
  counted = np.ones(index.shape, bool)
  if whole < len(rows):
    index = np.concatenate([index, rows[None, -size:]])
    counted = np.concatenate([
        counted, np.arange(size)[None] >= size - (len(rows) - whole)])
  pixels = pipeline.apply(
      transforms.kinds(task.transforms),
      pipeline.parameters(task.transforms, source.image_shape),
      arrays.images[index.ravel()])
  images = pixels.reshape(*index.shape, *pixels.shape[1:])
  first = images[np.arange(steps) % (whole // size)]
  return Stream(images, jnp.asarray(view.label_map[arrays.labels[index]]),
                jnp.asarray(counted), first)


@functools.partial(jax.jit, static_argnums=0)
def measure(apply_fn, params, stats, stream):
  """Per batch: images right, and the mean entropy (nats)."""
  def body(_, batch):
    images, labels, counted = batch
    logits = apply_fn(params, stats, images)
    right = (jnp.argmax(logits, -1) == labels) & counted
    return None, (jnp.sum(right), hopfield.entropy(logits))
  return jax.lax.scan(body, None, stream[:3])[1]


@functools.partial(jax.jit, static_argnums=0)
def one_shot(apply_fn, backbone, stats, stacked, images):
  """For every batch, the mask whose share reduces the entropy fastest."""
  count = jax.tree.leaves(stacked)[0].shape[0]

  def objective(alphas, batch):
    mixed = impressions.combine(
        jax.tree.map(lambda _: alphas, stacked), stacked)
    return hopfield.entropy(
        apply_fn(masks.apply(backbone, mixed), stats, batch))

  def body(_, batch):
    slope = jax.grad(objective)(jnp.full(count, 1. / count), batch)
    return None, jnp.argmin(slope)
  return jax.lax.scan(body, None, images)[1]


def decoys(like, count: int):
  """Random masks that have, in each leaf, as many ones as a given mask."""
  for number in range(count):
    yield masks.random(jax.random.key(number), like, masks.densities(like))


class Setting(NamedTuple):
  """The evaluated masks of a system, as a list and in a memory."""
  apply_fn: Any
  backbone: Any
  stats: Any
  names: list[str]
  bank: list
  memory: hopfield.Memory
  streams: list[list[Stream]]  # [order][task]


def load(args) -> tuple[Any, dict, Setting]:
  """The system, its config, and the setting on the split."""
  system = mtl_jax.load(args.workdir)
  config = json_records.read_json(system.workdir.config)
  options = dict(config['suite'])
  suite = suites.make(options.pop('kind'), **options)
  names = [task.name for task in suite.tasks]
  if system.tasks != sorted(names):
    raise SystemExit(f'{args.workdir} has the tasks {system.tasks}, not those '
                     'of its suite: finish the run first')
  bank = [system.task(name).impression.masks for name in names]
  memory = hopfield.empty(bank[0])
  for mask in (*bank, *decoys(bank[0], args.decoys)):
    memory = hopfield.store(memory, mask, args.rule)
  network = system.backbone.network

  def apply_fn(params, stats, images):
    return network.apply(params, stats, images, train=True)[0]

  streams = [[make_stream(task, args.split, config['seed'] + 1000 * order,
                          args.batch_size, args.steps)
              for task in suite.tasks] for order in range(args.orders)]
  return system, config, Setting(
      apply_fn, system.backbone.params, system.backbone.stats, names, bank,
      memory, streams)


def hamming(a, b) -> dict[str, int]:
  """The number of bits in which two masks differ, by leaf."""
  a, b = (trees.flatten(tree) for tree in (a, b))
  return {name: np.sum(np.asarray(x) != np.asarray(b[name]), -1).tolist()
          for name, x in a.items() if x is not None}


def find(at: Setting, stream: Stream, number: int, recipe):
  """The mask recovered from a stream of task `number`, and its path."""
  found = hopfield.recover(at.apply_fn, at.backbone, at.stats, at.memory,
                           stream.first, recipe)
  path = np.sum(list(hamming(found.masks, at.bank[number]).values()), 0)
  wrong = np.flatnonzero(path)
  last = int(wrong[-1]) + 1 if len(wrong) else 0
  distances = [sum(hamming(found.mask, m).values()) for m in at.bank]
  return found.mask, {
      'hamming': hamming(found.mask, at.bank[number]),
      'steps_to_converge': last + 1 if last < len(path) else None,
      'nearest': at.names[int(np.argmin(distances))],
      'hamming_by_step': path.tolist(),
      'entropy_by_step': [round(float(h), 4) for h in found.entropy]}


def repeat(at: Setting, recipe, score: bool) -> dict:
  """Recovery on every order of every stream."""
  steps, accuracy = [], []
  for streams in at.streams:
    for number, stream in enumerate(streams):
      mask, found = find(at, stream, number, recipe)
      steps.append(found['steps_to_converge'])
      if score:
        right, _ = measure(at.apply_fn, masks.apply(at.backbone, mask),
                           at.stats, stream)
        accuracy.append(_fraction(right, stream))
  found = {'streams': len(steps), 'steps': steps,
           'exact': float(np.mean([s is not None for s in steps]))}
  return found | ({'accuracy': float(np.mean(accuracy))} if score else {})


def _fraction(right, stream) -> float:
  return float(int(np.sum(right)) / int(np.sum(stream.counted)))


def compare(at: Setting, number: int, args, recipe) -> dict:
  """Every method's accuracy on one stream, and Hopfield's path."""
  stream = at.streams[0][number]
  table = [measure(at.apply_fn, masks.apply(at.backbone, mask), at.stats,
                   stream) for mask in at.bank]
  right, entropy = (np.stack([row[i] for row in table]) for i in (0, 1))
  pick = lambda chosen: right[chosen, np.arange(right.shape[1])]
  by_stream = int(np.argmin(entropy[:, :args.steps].mean(1)))
  by_batch = np.argmin(entropy, 0)
  shot = np.asarray(one_shot(at.apply_fn, at.backbone, at.stats,
                             masks.stack(at.bank), stream.images))
  mask, found = find(at, stream, number, recipe)
  recovered, _ = measure(at.apply_fn, masks.apply(at.backbone, mask),
                         at.stats, stream)
  chosen = {'known': right[number], 'bank_stream': right[by_stream],
            'bank_batch': pick(by_batch), 'one_shot': pick(shot),
            'hopfield': recovered}
  accuracy = {name: _fraction(r, stream) for name, r in chosen.items()}
  return {
      'kind': 'task', 'task': at.names[number],
      'images': int(np.sum(stream.counted)), 'accuracy': accuracy,
      'task_found': {
          'bank_stream': float(by_stream == number),
          'bank_batch': float(np.mean(by_batch == number)),
          'one_shot': float(np.mean(shot == number)),
          'hopfield': float(found['nearest'] == at.names[number])},
      'hopfield': found}


def sizes(system, at: Setting) -> dict:
  """Bytes of the memory and of the list, without norm statistics."""
  one = impressions.bytes_by_part(system.task(at.names[0]).impression)
  matrix = trees.nbytes(at.memory)
  return {'memory': matrix, 'bank': one['masks'] * len(at.bank),
          'mask': one['masks'], 'stats_per_task': one['stats'],
          'break_even_tasks': -(-matrix // one['masks'])}


def grid(at: Setting, args, write) -> None:
  """One line per setting, with the number of masks recovered exactly."""
  for rate, gamma in itertools.product(LEARNING_RATES, GAMMAS):
    recipe = hopfield.Recipe(rate, args.momentum, args.weight_decay, gamma)
    write({'kind': 'grid', 'recipe': recipe._asdict()}
          | repeat(at, recipe, score=False))


def full(system, at: Setting, args, write) -> None:
  """One line per task and a summary."""
  recipe = hopfield.Recipe(args.learning_rate, args.momentum,
                           args.weight_decay, args.gamma)
  lines = []
  for number, name in enumerate(at.names):
    line = compare(at, number, args, recipe)
    record = system.task(name).metadata['record']
    line['accuracy']['known_stored'] = record['accuracy'][args.split]
    lines.append(line)
    write(line)
  write({'kind': 'summary', 'recipe': recipe._asdict(),
         'accuracy': {m: float(np.mean([x['accuracy'][m] for x in lines]))
                      for m in METHODS},
         'task_found': {m: float(np.mean([x['task_found'][m] for x in lines]))
                        for m in METHODS[2:]},
         'orders': repeat(at, recipe, score=True),
         'bytes': sizes(system, at)})


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--split', choices=('valid', 'test'), default='valid')
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines')
  parser.add_argument('--grid', action='store_true')
  parser.add_argument('--rule', default='storkey', choices=hopfield.RULES)
  parser.add_argument('--decoys', type=int, default=0)
  parser.add_argument('--orders', type=int, default=1)
  parser.add_argument('--steps', type=int, default=30)
  parser.add_argument('--batch_size', type=int, default=64)
  for name, value in hopfield.Recipe()._asdict().items():
    parser.add_argument(f'--{name}', type=float, default=value)
  args = parser.parse_args()
  if args.grid and args.split == 'test':
    parser.error('--grid chooses settings: it may not read the test split')
  return args


def command() -> str:
  """The command line, without this machine's folders."""
  words = [re.sub('^--workdir=.*', '--workdir=DIR', re.sub(
      '^--out=.*/', '--out=', word)) for word in sys.argv[1:]]
  return shlex.join(['python', 'experiments/hopsupsup/evaluate.py', *words])


def main() -> None:
  args, started = parse(), time.perf_counter()
  system, config, at = load(args)
  lines = [{'kind': 'run', 'command': command(), 'config': config,
            'seed': config['seed'], 'split': args.split, 'rule': args.rule,
            'decoys': args.decoys, 'steps': args.steps,
            'orders': args.orders, 'batch_size': args.batch_size,
            'backbone': system.backbone.recipe['fingerprint'],
            'versions': provenance.versions(), 'commit': provenance.commit(),
            'hardware': provenance.hardware()}]

  def write(line):
    lines.append(line)
    shown = {k: v for k, v in line.items() if k != 'hopfield'}
    print(json.dumps(shown), flush=True)

  if args.grid:
    grid(at, args, write)
  else:
    full(system, at, args, write)
  lines[-1]['seconds'] = time.perf_counter() - started
  if args.out:
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(''.join(json.dumps(line) + '\n' for line in lines))


if __name__ == '__main__':
  main()
