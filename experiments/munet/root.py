"""Writes a learned ViT in the AugReg format, to be another system's root.

    python experiments/munet/root.py WORKDIR FILE.npz [TASK]
"""

import pathlib
import sys

import mtl_jax
from mtl_jax.models import augreg


def export(workdir, file, name=None) -> str:
  """Writes the network of a task (of the only one); returns its name."""
  system = mtl_jax.load(workdir)
  if name is None and len(system.tasks) != 1:
    raise SystemExit(f'{workdir} has tasks {system.tasks}; name one')
  name = name or system.tasks[0]
  pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
  augreg.save(file, system.effective(system.task(name))[0])
  return name


if __name__ == '__main__':
  if len(sys.argv) not in (3, 4):
    sys.exit(__doc__)
  print(f'{sys.argv[2]}: the network of {export(*sys.argv[1:])}')
