"""Which phases take part in task inference, and which cannot."""

from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import parts as config_parts
from mtl_jax.data import suites
from mtl_jax.data import transforms


def check(config: config_lib.Config, suite: suites.Suite) -> None:
  """Refuses, before training, scenarios whose tasks can't be inferred.

  Raises:
    ValueError: the tasks can't be superposed, are regressions or prepare
      their images differently, or there is no superfluous output; names phase
      or task.
  """
  for scenario in config.identify:
    tasks: list[suites.Task] = []
    chosen = phases(config, scenario)
    _check_phases(scenario, chosen)
    for phase in chosen:
      if not phase.make_method().abilities.superposes:
        raise ValueError(
            f'identify.{scenario.name}: phase {phase.name} leaves weights of '
            f'its own, which cannot be superposed ({phase.method}); name the '
            'phases that take part, or mark it control=True')
      tasks += suite.tasks[slice(*phase.tasks)]
    if not tasks:
      raise ValueError(f'identify.{scenario.name}: no phase takes part; pools '
                       'never take part, controls only if they are named')
    for task in tasks:
      if task.regression:
        raise ValueError(
            f'identify.{scenario.name}: task {task.name} is a regression: '
            'without classes no answer is right or wrong, and its output says '
            'nothing of its task; name phases without it')
      if transforms.common(task.transforms) != transforms.common(
          tasks[0].transforms):
        raise ValueError(
            f'identify.{scenario.name}: tasks {tasks[0].name} and {task.name} '
            'prepare their images differently; give the suite one normalise '
            'and image_shape')
  _check_superfluous(config, max(task.classes for task in suite.tasks))


def _check_superfluous(config: config_lib.Config, classes: int) -> None:
  """Refuses the objective G without outputs that training turned off."""
  asking = {s.name: phases(config, s) for s in config.identify
            if s.objective == 'superfluous'}
  asking |= {p.name: [p] for p in config.phases
             if p.stream and p.stream.objective == 'superfluous'}
  for name, chosen in asking.items():
    if config.backbone.outputs <= classes:
      raise ValueError(
          f'{name}: the objective superfluous needs more outputs than the '
          f'{trees.counted(classes, "class")}; backbone.outputs is '
          f'{config.backbone.outputs}')
    for phase in chosen:
      if phase.loss == 'classes':
        raise ValueError(
            f'{name}: the objective superfluous reads outputs beyond the '
            f"classes, which phase {phase.name} does not train: its loss is "
            "'classes'; give it loss='softmax', or take objective='entropy'")


def _check_phases(scenario, chosen) -> None:
  where, found = f'identify.{scenario.name}', [p.name for p in chosen]
  left_out = sorted(set(scenario.phases) - set(found))
  if left_out:
    raise ValueError(f'{where}: {left_out[0]} is a pool, which leaves one '
                     'impression for all its tasks: there is nothing to infer')
  bases = {p.options.basis for p in chosen
           if getattr(p.options, 'basis', None) is not None}
  if len(bases) > 1:
    raise ValueError(f'{where}: phases {", ".join(found)} combine different '
                     'bases and cannot be superposed; name phases of one')
  if scenario.normalise and chosen and not bases:
    raise ValueError(f'{where}: normalise divides coefficients, but phases '
                     f'{", ".join(found)} leave masks; leave it out')


def phases(config: config_lib.Config,
           scenario: config_parts.Scenario) -> list[config_lib.Phase]:
  """The phases whose tasks take part in a scenario."""
  return [p for p in config.phases if not p.pool and (
      p.name in scenario.phases or not (scenario.phases or p.control))]
