"""The device memory that a run needs, known before training.

XLA reports the memory of a compiled step; training then uses the same program,
so nothing is compiled twice.
"""

import dataclasses
from typing import Any, NamedTuple

import jax

from mtl_jax import host
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax.config import config as config_lib
from mtl_jax.config import phase as phase_lib
from mtl_jax.config import plan
from mtl_jax.parallel import memory
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import drivers
from mtl_jax.training import loop
from mtl_jax.training import run as run_lib
from mtl_jax.training import stream
from mtl_jax.training import trace

SHARE = 0.9  # of a device's memory; XLA and the system need the rest


class Need(NamedTuple):
  """Bytes of a phase's training on each device.

  Attributes:
    step: bytes of a compiled chunk of steps: its arguments (backbone, state,
      images) and either its temporaries or the copy of the state that is made
      for a save, whichever is larger.
    images: bytes of all other images: the splits of all sources that are not
      arguments of the step.
  """
  step: int
  images: int

  @property
  def total(self) -> int:
    return self.step + self.images


def recorded(work: workdir_lib.Workdir,
             config: config_lib.Config) -> config_lib.Config:
  """The config with 'auto' replaced by the numbers of an earlier start."""
  if not work.config.exists():
    return config
  kept: Any = json_records.read_json(work.config)

  def known(phase):
    number = kept
    for key in ('phases', phase.name, 'tasks_at_once'):
      number = number.get(key) if isinstance(number, dict) else None
    if phase.tasks_at_once != phase_lib.AUTO or number is None:
      return phase
    return dataclasses.replace(phase, tasks_at_once=number)
  return dataclasses.replace(config, phases=tuple(map(known, config.phases)))


def limit() -> int | None:
  """Bytes that a run may use on each device; `None` if unknown.

  On a CPU: the free memory plus what this process's arrays take, divided by
  the number of devices.
  """
  if jax.process_count() > 1:  # pmap can't lower shapes there, only arrays
    return None
  found = memory.limit()
  left = host.available_bytes()
  if found is None and jax.default_backend() == 'cpu' and left is not None:
    found = left // jax.local_device_count() + memory.held()
  found = parallel.agree(found)
  return None if found is None else int(SHARE * int(found))


def fit(run: run_lib.Run, traced: dict[str, trace.Traced]
        ) -> tuple[config_lib.Config, dict[str, dict]]:
  """Refuses phases that don't fit into the devices, and resolves 'auto'.

  Args:
    run: the run; its config may have tasks_at_once='auto'.
    traced: by phase, from `validate.check_methods`.

  Returns:
    (the config with numbers in place of 'auto'; for each phase that is not
    finished, {'needed', 'available'} bytes on each device).

  Raises:
    ValueError: a phase needs more memory than there is; names remedies.
  """
  available, needs, phases = limit(), {}, []
  for phase in run.config.phases:
    need = None
    if phase.tasks_at_once == phase_lib.AUTO:
      phase, need = _most(run, phase, traced, available)
    elif available is not None:
      need = of_phase(run, phase, traced)
      if need is not None and need.total > available:
        raise ValueError(_too_much(run.config, phase, need, available))
    if need is not None:
      needs[phase.name] = {'needed': need.total, 'available': available}
    phases.append(phase)
  return dataclasses.replace(run.config, phases=tuple(phases)), needs


def _most(run, phase, traced, available):
  """(the phase with the largest group that fits, its memory need)."""
  if available is None:
    raise ValueError(
        f"phase {phase.name}: tasks_at_once='auto' needs to know the memory "
        f'of the device, which {jax.default_backend()} does not tell, or not '
        'to several processes; give a number')
  count = _power_of_two(len(plan.entries(phase, run.suite)))
  while True:
    chosen = dataclasses.replace(phase, tasks_at_once=count)
    need = of_phase(run, chosen, traced)
    if need is None or need.total <= available:
      return chosen, need
    if count == 1:
      raise ValueError(_too_much(run.config, chosen, need, available))
    # One part of the need grows with the number of tasks, the rest is
    # constant: no number between these two fits.
    count = max(1, min(count // 2, _power_of_two(
        int(count * available / need.total))))


def _power_of_two(number: int) -> int:
  """The largest power of two that is not above `number`; at least 1.

  >>> [_power_of_two(n) for n in (0, 1, 3, 8, 1000)]
  [1, 1, 2, 8, 512]
  """
  return 1 << max(0, number.bit_length() - 1)


def of_phase(run: run_lib.Run, phase: config_lib.Phase,
             traced: dict[str, trace.Traced]) -> Need | None:
  """Memory that the first unfinished group of a phase needs.

  `None` if all groups are finished, if XLA doesn't report it, or if the phase
  is a search, which chooses its own size.
  """
  if phase.search is not None:
    return None
  group = next((group for group in plan.groups(phase.named, run.suite)
                if phase.stream is not None or not all(
                    run.workdir.has_task(entry.name) for entry in group)),
               None)
  if group is None or phase.stream is not None and stream.finished(run, phase):
    return None
  shared = traced[phase.name].shared
  recipe = phase.recipe(len(run.data.rows(group[0])))
  if phase.stream is not None:
    lowered = stream.lower(run, phase)
  else:
    lowered = drivers.make(run, group, recipe).lower(
        shared, loop.chunk_steps(run, phase, recipe, 0))
  program = memory.of_program(lowered)
  if program is None:
    return None
  # A save joins tasks that are divided over devices, in a copy.
  copied = (memory.each(lowered.out_info[0])
            if phase.stream is None and run.config.mesh is None
            and drivers.at_once(group, recipe.batch_size) else 0)
  return Need(program.arguments + max(program.work, copied),
              _other_images(run, group))


def _other_images(run, group) -> int:
  """Bytes of the images that are not arguments of a group's step."""
  sizes = {(task.source, plan.once(task.transforms), split):
           run.data.nbytes(task, split)
           for task in run.suite.tasks for split in ('train', 'valid', 'test')}
  for entry in group:
    sizes.pop((entry.task.source, plan.once(entry.task.transforms), 'train'),
              None)
  return sum(sizes.values())


def _too_much(config, phase, need: Need, available: int) -> str:
  """The error message of a phase that doesn't fit, with the remedies."""
  helps = []
  if phase.most_at_once > 1 and phase.tasks_at_once != phase_lib.AUTO:
    helps.append(f"tasks_at_once below {phase.tasks_at_once} (or 'auto')")
  helps.append(f'a batch_size below {phase.training.batch_size}')
  if config.backbone.compute_dtype == 'float32':
    helps.append("backbone.compute_dtype='bfloat16'")
  if not config.backbone.remat and models.make(
      config.backbone.model, config.backbone.outputs,
      **dict(config.backbone.options)).remat is not None:
    helps.append('backbone.remat=True')
  return (f'phase {phase.name}: training needs about {_said(need.total)} of '
          f'memory on each device ({_said(need.step)} for its steps, '
          f'{_said(need.images)} for other images), and a device has '
          f'{_said(available)} for it; give {", ".join(helps[:-1])} or '
          f'{helps[-1]}')


def _said(count: int) -> str:
  for unit, size in (('GB', 1e9), ('MB', 1e6)):
    if count >= size:
      return f'{count / size:.1f} {unit}'
  return f'{count / 1e3:.1f} kB'
