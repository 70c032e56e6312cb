"""What `prepare` computes for a phase's groups from earlier tasks."""

import functools

import jax

from mtl_jax import methods
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.storage import checkpoint
from mtl_jax.training import commit
from mtl_jax.training import gradients
from mtl_jax.training import method_errors
from mtl_jax.training import run as run_lib


class Preparation:
  """Calls `prepare` for one group of a phase after another.

  Groups that rely on the same tasks share one result, unless the method reads
  the tasks themselves or a commit kept something for the next group.
  """

  def __init__(self, run: run_lib.Run, phase: config_lib.Phase):
    self.run, self.method = run, phase.make_method()
    self.before = plan.before(run.config, run.suite, phase, run.earlier)
    self.kept: dict = {}
    self.kept_by: str | None = None
    self.last: plan.Entry | None = None  # learned by an earlier start
    self.given: commit.Given | None = None
    self.routes: tuple[methods.Route, ...] = ()

  def of(self, group: list[plan.Entry]) -> commit.Given:
    """The result of `prepare` for a group, on the devices."""
    if self.last is not None:
      self.kept, self.kept_by = restore_kept(self.run, self.last)
      self.last = None
    names = tuple(e.name for e in plan.relied(self.before, group))
    routes = tuple(entry.route for entry in group)
    if (self.given is None or self.given.relied != names or self.kept
        or self.routes != routes or self.method.abilities.per_group):
      self.routes = routes
      shared = self.method.prepare(context(self.run, group, names, self.kept))
      self.given = commit.Given(parallel.put(shared), names, self.kept_by)
    return self.given

  def keep(self, after: commit.Given) -> None:
    """Takes over what the last commit of the group returned."""
    if after.kept_by != self.kept_by:
      self.kept, self.kept_by = after.shared, after.kept_by

  def passed(self, group: list[plan.Entry]) -> None:
    """Notes a group that an earlier start already learned."""
    self.last = group[-1]


def context(run: run_lib.Run, group: list[plan.Entry], names: tuple[str, ...],
            kept: dict) -> methods.Context:
  """What the method can read of a group before the group is trained."""
  backbone = run.system.backbone
  return methods.Context(
      backbone.params,
      tuple(run.system.task(name).impression for name in names),
      run_key(run.config.seed), methods.Group(
          tuple(entry.route for entry in group), parallel.local(kept),
          functools.partial(backbone_lib.another_draw, backbone),
          lambda member, like, sample: _gradient(run, group, member, like,
                                                 sample)))


def _gradient(run: run_lib.Run, group: list[plan.Entry], member: int, like,
              sample: int):
  """`Group.gradient`: of images that only this group has."""
  phase = group[0].phase
  if not phase.make_method().abilities.per_group:
    raise method_errors.WrongMethod(
        f'phase {phase.name}: method {phase.method}: prepare reads the '
        'gradients of the tasks that will be trained next, which differ from '
        'group to group; declare per_group=True in its abilities')
  return gradients.scores(run, group[member], like, sample)


def run_key(seed: int):
  """The key that all tasks of a run have in common."""
  return jax.random.key(seed, impl='threefry2x32')


def restore_kept(run: run_lib.Run,
                 entry: plan.Entry) -> tuple[dict, str | None]:
  """(what the commits up to an entry kept for the next one, who kept it).

  Raises:
    CheckpointError: the kept checkpoint is gone.
  """
  by = checkpoint.load_metadata(run.workdir.task(entry.name), {
      'name': entry.name}).get('kept_by')
  if by is None:
    return {}, None
  path = run.workdir.shared / by
  if not checkpoint.exists(path):
    raise checkpoint.CheckpointError(
        f'the next task starts from what phase {entry.phase.name} kept after '
        f'task {by}, but {path} is gone (only the newest is kept); train the '
        'phase again in a new workdir')
  arrays, values = checkpoint.load(path, expected={
      'name': by, 'backbone': run.backbone.recipe['fingerprint']})
  return parallel.put(trees.unflatten(
      arrays | dict.fromkeys(values['absent']))), by
