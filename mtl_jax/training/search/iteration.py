"""Grows a multitask network in task iterations, as mu2Net does.

Gesmundo and Dean 2022, https://arxiv.org/abs/2205.12755. The search for a task
starts from the paths of all tasks before it: generations of children share
their parents' components, clone some of them, and train briefly. The best path
is committed like any impression before the next task begins. So every search
starts from stored paths, and a killed search loses only the work since its
last save.

Random decisions come from generators seeded by the run's seed, the entry's
name and the generation's number, so no random state has to be saved.
"""

import dataclasses
import functools
import time
import zlib

import jax
import numpy as np

from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.evolution import augment
from mtl_jax.evolution import batches
from mtl_jax.evolution import mutations
from mtl_jax.evolution import networks
from mtl_jax.evolution import parents
from mtl_jax.evolution import spaces
from mtl_jax.evolution import training
from mtl_jax.parallel import memory
from mtl_jax.steps import single
from mtl_jax.storage import checkpoint
from mtl_jax.storage import impression_arrays
from mtl_jax.training import commit
from mtl_jax.training import progress
from mtl_jax.training import run as run_lib
from mtl_jax.training import sizing
from mtl_jax.training.search import children as children_lib
from mtl_jax.training.search import population as population_lib
from mtl_jax.training.search import state as state_lib
from mtl_jax.training.search import waves

State = state_lib.State


def check(phase: config_lib.Phase, suite: suites.Suite, backbone) -> None:
  """Refuses, before anything is written, a search that could not run.

  Raises:
    ValueError: the network isn't made of components, a private task isn't in
      the phase, a task augments its images itself, or the space does not allow
      the root's number of blocks.
  """
  assert phase.search is not None
  names = [task.name for task in suite.tasks[slice(*phase.tasks)]]
  for name in phase.search.private:
    if name not in names:
      raise ValueError(f'phase {phase.name}: private task {name!r} is not one '
                       f'of its tasks: {", ".join(names)}')
  if backbone.recipe.get('compute_dtype', 'float32') != 'float32':
    raise ValueError(f'phase {phase.name}: a search computes in float32; leave '
                     'out backbone.compute_dtype')
  if backbone.network.parts is None:
    raise ValueError(f'phase {phase.name}: {phase.method} needs a network of '
                     'components (vit_ti, vit_s, ...), not '
                     f'{backbone.recipe["model"]}')
  for task in suite.tasks[slice(*phase.tasks)]:
    if any(kind[0] == 'crop_flip' for kind in transforms.kinds(
        task.transforms)):
      raise ValueError(f'phase {phase.name}: a search augments its images as '
                       'its space says; leave out suite.augment')
  space = phase.search.make_space()
  blocks = mutations.count_blocks(backbone.params)
  if 'num_layers' in dict(space.ranges) and (
      blocks not in space['num_layers'].values):
    raise ValueError(f'phase {phase.name}: the root has '
                     f'{trees.counted(blocks, "block")}, but the space '
                     f'{phase.search.space} allows '
                     f'{space["num_layers"].values}')


def learn(run: run_lib.Run, phase: config_lib.Phase) -> None:
  """Searches for the paths that aren't stored yet."""
  stored: dict[str, networks.Path] = {}
  for entry in plan.entries(phase, run.suite):
    if checkpoint.exists(run.workdir.task(entry.name)):
      run.advance(phase.recipe(len(run.data.rows(entry))).steps, entry.name)
    else:
      _TaskIteration(run, entry, stored).run()


@functools.lru_cache(maxsize=64)
def program(network, together: bool):
  """The compiled round, shared by all searches of a network."""
  return parallel.over_children(training.make_round(network.parts.apply),
                                together)


def _length(learners: dict) -> int:
  """Number of children whose states were saved together."""
  return len(next(iter(learners.values())))


class _TaskIteration:
  """The search for the path of one entry."""

  def __init__(self, run: run_lib.Run, entry: plan.Entry,
               stored: dict[str, networks.Path]):
    self.run_, self.entry, self.phase = run, entry, entry.phase
    assert entry.phase.search and run.backbone.network.parts
    self.search = entry.phase.search
    self.parts = run.backbone.network.parts
    self.space = self.search.make_space()
    self.known = population_lib.retained(run, entry, stored)
    self.root = self.known[0]
    rows = run.data.rows(entry)
    if self.space.shuffle == 'buffer':
      rows = batches.cached(rows, (run.config.seed, zlib.crc32(
          f'{entry.task.name}/cache'.encode())))
    self.rows, self.batch = rows, self.phase.training.batch_size
    self.round_steps = self.phase.round_steps(len(rows))
    self.valid_index = batches.validation(
        run.data.rows(entry, 'valid'), min(self.batch, self.search.valid_cap),
        self.search.valid_cap)
    private = {task for phase in run.config.phases if phase.search
               for task in phase.search.private}
    self.others = [path for path in self.known
                   if path.task != entry.task.name
                   and path.task not in private
                   and not path.record.get('private')]
    self.locked = networks.locked(entry.task.name, self.known)
    self.maker = children_lib.Maker(
        self.search, self.parts, self.known, self.others, entry.task.name,
        entry.task.classes,
        run.data.split(entry.task, 'train').images.shape[1:])
    self.clock = progress.Clock(run.config.progress_seconds)

  def _generator(self, *numbers) -> np.random.Generator:
    return np.random.default_rng([
        self.run_.config.seed, zlib.crc32(self.entry.name.encode()), *numbers])

  def _start(self) -> State:
    own = [self.maker.scored(path) for path in self.known
           if path.task == self.entry.task.name]
    seeds = parents.shuffled(self._generator(0),
                             [path.name for path in self.others])
    children = (population_lib.offspring(self.known, self.entry.task.name)
                if self.space.remember_children else {})
    return State(paths=own, seeds=seeds, children=children)

  def run(self) -> None:
    """Searches, resuming an earlier start if there was one, and commits."""
    state = state_lib.restore(
        self.run_.workdir, self.entry.name, self.known, self._start(),
        self.run_.defined_in(self.phase))
    per_child = self.search.validations * self.round_steps
    self.run_.advance(per_child * (
        state.generation * self.search.children + len(state.trained)),
                      self.entry.name)
    while state.generation < self.search.generations:
      state = self._generation(state)
    self._commit(state)

  # One generation.

  def _children(self, state: State):
    """Samples the children of a generation before any of them is trained.

    Returns:
      (children, {path: number of its children}, order of the seeds,
      augmentation of the images).
    """
    rng = self._generator(1, state.generation)
    control = self.search.control
    images = (self.space.defaults(spaces.AUGMENT) if control else
              mutations.sample_images(rng, self.space,
                                      networks.best(state.paths)))
    counts, seeds = dict(state.children), state.seeds
    by_name = {path.name: path for path in [*self.known, *state.paths]}
    children = []
    for _ in range(self.search.children):
      if control:
        parent = self.root
      else:
        parent, seeds = parents.choose(
            rng, state.paths, self.others, seeds, counts,
            uniform=self.space.rate_per_action)
      counts[parent.name] = counts.get(parent.name, 0) + 1
      children.append(mutations.child(
          rng, self.space, mutations.lineage(parent, by_name), images,
          self.locked, self.entry.task.classes, control))
    return children, counts, seeds, images

  def _generation(self, state: State) -> State:
    children, counts, seeds, images = self._children(state)
    wave, together = self._wave(state, children[0], images)
    while len(state.trained) < len(children):
      first = len(state.trained)
      state = self._train(state, children[first:first + wave], first, wave,
                          together, images)
    paths = [*state.paths, *(p for p in state.trained if p is not None)]
    paths = networks.prune(paths, self.space.population)
    return State(state.generation + 1, paths, counts, seeds,
                 [*state.log], seconds=state.seconds)

  def _wave(self, state, child, images) -> tuple[int, bool]:
    """(number of children that one call trains, whether under vmap)."""
    apart = waves.one_by_one()
    each = self.search.at_once or (1 if apart else waves.largest(
        -(-self.search.children // parallel.device_count()),
        functools.partial(self._need, state, child, images), sizing.limit(),
        self.phase.name))
    return parallel.device_count() * each, not apart

  def _need(self, state, child, images, each: int) -> int | None:
    """Bytes on a device that trains as many children like this one at once."""
    new = self.maker.new(child, jax.random.key(0))
    learner = jax.tree.map(lambda x: x[0], self._learners([child], [new]))
    before, after = self._around(state, 0, images)
    found = memory.of_program(program(self.run_.backbone.network, True).lower(
        *before, memory.split_shapes(
            learner, each * parallel.device_count()), *after))
    return None if found is None else found.arguments + found.work

  def _learners(self, children, news):
    """The states of a wave's children before their first step, stacked."""
    found = []
    for child, new in zip(children, news):
      own = child.parent.task == self.entry.task.name
      found.append(training.learner_of(
          child, self.maker.largest, new, training.hyper_of(
              child.hyper, self.search.validations, self.round_steps,
              self.space),
          child.parent.score if own else -np.inf,
          self.maker.factor(child, new)))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)

  def _train(self, state, children, first, wave, together, images) -> State:
    """Trains the next children of a generation, round by round."""
    started = time.perf_counter()
    number = state.generation * self.search.children + first
    news = [self.maker.new(child, plan.named_key(
        self.run_.config.seed, f'{self.entry.name}/new/{number + i}'))
            for i, child in enumerate(children)]
    padded = [*children, *[children[-1]] * (wave - len(children))]
    learners = self._learners(padded, [*news, *[news[-1]] * (
        wave - len(children))])
    if state.learners is not None:
      if _length(state.learners) == wave:
        learners = impression_arrays.arrays_to_tree(state.learners, learners)
      else:  # saved with other devices: these children start again
        state = dataclasses.replace(state, learners=None, rounds=[])
    learners, rounds = parallel.split_tasks(learners), list(state.rounds)
    while len(rounds) < self.search.validations:
      learners, measured = self._round(state, learners, len(rounds), images,
                                       together)
      measured = parallel.gather_tasks(measured)
      rounds.append([x.tolist() for x in measured])
      self.run_.advance(self.round_steps * len(children),
                        self._words(state, rounds))
      if len(rounds) < self.search.validations and self.clock.due():
        self._save(dataclasses.replace(
            state, rounds=rounds, learners=impression_arrays.tree_to_arrays(
                parallel.gather_tasks(learners)),
            seconds=state.seconds + time.perf_counter() - started))
    host = parallel.gather_tasks(learners)
    results = [self._result(state, child, new, host, rounds, first + i, i)
               for i, (child, new) in enumerate(zip(children, news))]
    state = dataclasses.replace(
        state, trained=[*state.trained, *(path for path, _ in results)],
        log=[*state.log, *(line for _, line in results)], rounds=[],
        learners=None,
        seconds=state.seconds + time.perf_counter() - started)
    if self.clock.due():
      self._save(state)
    return state

  def _save(self, state: State) -> None:
    state_lib.save(self.run_.workdir, self.entry.name, self.known, state,
                   self.run_.defined_in(self.phase))

  def _round(self, state, learners, number, images, together):
    before, after = self._around(state, number, images)
    return program(self.run_.backbone.network, together)(
        *before, learners, *after)

  def _around(self, state, number, images) -> tuple[tuple, tuple]:
    """The arguments of a round before and after the learners."""
    data, task = self.run_.data, self.entry.task
    index = batches.training(
        self.rows, self.round_steps, self.batch,
        (*self.entry.seed(self.run_.config.seed), state.generation),
        number * self.round_steps, self.space.shuffle)
    key = plan.named_key(self.run_.config.seed,
                         f'{self.entry.name}/images/{state.generation}')
    return ((plan.route_of(task), data.split(task, 'train'),
             data.split(task, 'valid'), data.task_arrays(task)),
            (index, self.valid_index, augment.of(images), key))

  def _words(self, state, rounds) -> str:
    """The text of the progress bar."""
    best = networks.best(state.paths)
    found = [path.score for path in (best, *state.trained) if path is not None]
    found += [value for one in rounds for value in one[2]]
    done = len(state.trained) + (len(rounds) == self.search.validations)
    return (f'{self.entry.name}: generation {state.generation + 1}/'
            f'{self.search.generations}, child {done}/{self.search.children}, '
            f'best {100 * max(found):.1f} %')

  def _result(self, state, child, new, learners, rounds, number, place):
    """(the path of a trained child or `None`, the child's line in the log)."""
    learner = jax.tree.map(lambda x: x[place], learners)
    own = [[float(values[place]) for values in one] for one in rounds]
    taken = [i for i, one in enumerate(own) if one[3]]
    name = f'{self.entry.name}#{state.generation}.{number}'
    line = {'path': name, 'generation': state.generation,
            'parent': child.parent.name, 'changed': child.changed,
            'evals': [round(one[1], 6) for one in own],
            'trained': child.trained, 'improved': bool(taken)}
    if not taken:
      return None, line
    params, traces = training.trained_parts(child, learner, new)
    record = {
        'loss': [one[0] for one in own], 'evals': [one[1] for one in own],
        'trained': child.trained, 'changed': child.changed,
        'generation': state.generation}
    return mutations.finished(
        child, params, traces, name=name, task=self.entry.task.name,
        score=float(learner.best_score), quality=own[taken[-1]][1],
        record=record), line

  # The end.

  def _commit(self, state: State) -> None:
    best = networks.best(state.paths)
    if best is None:
      raise FloatingPointError(
          f'task {self.entry.name}: no child ended with finite weights. '
          'Finished tasks are kept; choose lower learning rates')
    run, entry = self.run_, self.entry
    extra = population_lib.record(run, entry, self.known, state, best,
                                self.maker.flops(best.params))
    rounds = len(best.record['evals'])
    curve = {'loss': np.repeat(np.array(best.record['loss'], np.float32),
                               self.round_steps)}
    extra['validation'] = {
        'step': [self.round_steps * (i + 1) for i in range(rounds)],
        'loss': [None] * rounds,
        'accuracy': [round(value, 6) if value >= 0 else None
                     for value in best.record['evals']]}  # -1: not finite
    trained = single.State(rounds * self.round_steps, {}, None, {}, None)
    searched = self.phase.make_method().abilities.searched
    assert searched is not None  # the config has checked it
    commit.commit(
        run, entry, trained, commit.Given(searched(best.params, ())), curve,
        commit.Trained(self.phase.recipe(len(self.rows)), state.seconds), extra)
    state_lib.remove(run.workdir, entry.name)
