"""Remarks on results that are implausible or easy to improve."""

import numpy as np

from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.data import suites
from mtl_jax.evaluation import scenario_phases

_FEW = 0.75  # of the accuracy of masks, below which there is a remark
_SHOWN = 3  # task names in a sentence


def before(config: config_lib.Config, suite: suites.Suite) -> list[str]:
  """Remarks on a config, before training."""
  found = []
  for scenario in config.identify:
    tasks = [task for phase in scenario_phases.phases(config, scenario)
             for task in suite.tasks[slice(*phase.tasks)]]
    most = max((task.classes for task in tasks), default=0)
    if scenario.objective == 'entropy' and config.backbone.outputs <= most:
      found.append(
          f'identify.{scenario.name}: tasks with '
          f'{trees.counted(most, "class")} on '
          f'{trees.counted(config.backbone.outputs, "output")} leave no '
          'superfluous outputs, and '
          'without such outputs the entropy seldom tells tasks apart; give '
          f'backbone.outputs={10 * most} and objective=superfluous')
  return found


def after(records: list[dict]) -> list[str]:
  """Remarks on the records of a run.

  Args:
    records: from `commit.describe`.
  """
  return [*_by_chance(records), *_few_masks(records)]


def _by_chance(records: list[dict]) -> list[str]:
  """Remarks on tasks that are no better than guessing."""
  guessed: dict[tuple, list[str]] = {}
  for record in records:
    test, classes = _test(record), record.get('classes') or 0
    if test is None or classes < 2:
      continue
    images = ((record.get('data') or {}).get('images') or {}).get('test')
    # Three standard deviations of guessing on this number of images.
    luck = 3 * np.sqrt((classes - 1) / classes ** 2 / images) if images else 0.
    if test <= 1 / classes + luck:
      guessed.setdefault((record['phase'], classes), []).append(
          f'{record["entry"]} {100 * test:.1f} %')
  return [
      f'phase {phase}: no better than guessing among {classes} classes '
      f'({100 / classes:.1f} %): {_some(names)}. Train longer, try another '
      'learning rate, or look at the labels'
      for (phase, classes), names in guessed.items()]


def _few_masks(records: list[dict]) -> list[str]:
  """Remarks on coefficients over too few masks."""
  masked = [test for r in records if not r.get('basis')
            and (r.get('bytes') or {}).get('masks')
            and (test := _test(r)) is not None]
  combined: dict[tuple, list[float]] = {}
  for record in records:
    basis, test = record.get('basis') or {}, _test(record)
    if basis.get('size') and test is not None:
      combined.setdefault((record['phase'], basis['size']), []).append(test)
  own = float(np.mean(masked)) if masked else 0.
  return [
      f'phase {phase}: coefficients over '
      f'{trees.counted(size, "mask")} reach '
      f'{100 * np.mean(tests):.1f} %, masks {100 * own:.1f} %: a larger basis '
      'gets closer (40 to 100 masks in our tables of ImpressLearn)'
      for (phase, size), tests in combined.items()
      if size < 40 and np.mean(tests) < _FEW * own]


def _test(record: dict) -> float | None:
  return (record.get('accuracy') or {}).get('test')


def _some(names: list[str]) -> str:
  more = len(names) - _SHOWN
  return ', '.join(names[:_SHOWN]) + (f' and {more} more' if more > 0 else '')
