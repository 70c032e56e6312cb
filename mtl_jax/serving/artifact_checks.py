"""Checks what the header of an exported file says of a task.

Such a file may come from anybody, and whoever changes its header can also write
its SHA-256 anew: a value of another kind is refused before it is used.
"""

from typing import Any

from mtl_jax import aliases
from mtl_jax import json_files
from mtl_jax import registry
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.serving import probes
from mtl_jax.storage import tensor_file

_TASK = {'name': str, 'record': dict, 'backbone': str, 'method': dict,
         'seed': int, 'transforms': list, 'source': str, 'classes': int,
         'source_shape': list, 'versions': dict, 'drawn_probe': dict}
_RECORD = {'control': bool, 'repeat': int, 'bytes': dict, 'phase': str,
           'method': str, 'accuracy': (dict, type(None))}
_BYTES = {'coefficients': int, 'values': int, 'total': int}
_METHOD = {'name': str, 'options': dict}
_MOST = 1 << 24  # of what is counted: classes, and the sides of an image


def refuse_network(path: aliases.Path, header: Any) -> None:
  """Refuses a file of `export_network`, which holds weights and no task."""
  if isinstance(header, dict) and 'network' in header:
    raise tensor_file.FileError(
        f'{path} holds the weights of a whole network, and no task: give it to '
        'a config as backbone.weights, or write the task with System.export '
        "(python -m mtl_jax export without --network)")


def check_task(name: str, metadata: Any) -> None:
  """Refuses metadata of a task that lack something or can't be meant.

  Args:
    name: name of the task in the file.
    metadata: as in `artifact.Part`.

  Raises:
    ValueError: names the task, the key and the value.
  """
  where = f'task {name}'
  json_files.check(metadata, _TASK, where, 'its description')
  json_files.check(metadata['record'], _RECORD, where, 'its record')
  json_files.check(metadata['record']['bytes'], _BYTES, where, 'its bytes')
  referenced = metadata['record']['bytes'].get('referenced', 0)
  if type(referenced) is not int:
    raise ValueError(f'{where}: its bytes referenced are {referenced!r}; '
                     'expected a whole number')
  json_files.check(metadata['method'], _METHOD, where, 'its method')
  registry.check_origin(metadata['method'].get('defined_in'),
                        f'{where}: its method')
  if metadata['name'] != name:
    raise ValueError(f'task {name} lacks its own name')
  if not abs(metadata['seed']) < 1 << 63:
    raise ValueError(f'{where}: seed is {metadata["seed"]}; expected a number '
                     'below 2 ** 63')
  if not 0 < metadata['classes'] < _MOST:
    raise ValueError(f'{where}: classes is {metadata["classes"]}; expected a '
                     'number of classes')
  shape = metadata['source_shape']
  if not shape or not all(type(size) is int and 0 < size < _MOST
                          for size in shape):
    raise ValueError(f'{where}: source_shape is {shape}; expected the sizes of '
                     'an input, each a whole number above 0')
  probes.draw(metadata['drawn_probe'], metadata)
  pipeline.parameters(transforms.from_json(metadata['transforms']),
                      tuple(shape))
