"""Single files of named arrays and JSON values: the only module that uses
safetensors (https://github.com/huggingface/safetensors).

The header of such a file is JSON and its arrays are raw bytes, so it can't
contain code. The header holds a SHA-256 over both: a file is read as it was
written, or refused.
"""

import hashlib
import json
import os
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from mtl_jax import aliases
from mtl_jax import host
from mtl_jax import json_files
from mtl_jax import messages
from mtl_jax import trees
from mtl_jax.storage import anywhere
from mtl_jax.storage import bucket
from mtl_jax.storage import checkpoint
from mtl_jax.storage import disk_errors
from mtl_jax.storage import folders
from mtl_jax.storage import whole_files

KEY, DIGEST, BYTES = 'mtl_jax', 'sha256', 'raw'
FORMAT = 1  # of exported tasks and networks; in their headers
# Dtypes that safetensors' NumPy functions read; others are stored as bytes.
_PLAIN = ('bool', 'uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32',
          'uint64', 'int64', 'float16', 'float32', 'float64')


class FileError(checkpoint.CheckpointError):
  """A file can't be trusted; the message says why, and the remedy."""


def write(path, arrays: dict[str, Any], header: dict) -> aliases.Path:
  """Writes a file atomically.

  Args:
    path: path of the file, in an existing folder; or its address in a bucket.
    arrays: arrays by name.
    header: JSON values.

  Returns:
    The path.
  """
  if not isinstance(path, (str, os.PathLike)):
    raise ValueError(f'the path is {messages.shown(path)}; give that of a '
                     'file')
  remote = bucket.is_remote(path)
  if not remote:
    path = host.expanded(path)
    folders.require_outside(path)
  if not remote and (path.is_dir() or not path.absolute().parent.is_dir()):
    raise ValueError(f'{path} is no place for a file: name a file in a folder '
                     'that exists')
  held = {name: np.asarray(a, order='C') for name, a in arrays.items()}
  raw = {name: str(a.dtype) for name, a in held.items()
         if str(a.dtype) not in _PLAIN}
  text = json.dumps(header | ({BYTES: raw} if raw else {}),
                    separators=(',', ':'))
  held = {name: _as_bytes(a) if name in raw else a for name, a in held.items()}
  try:
    content = _in_order(safetensors_numpy.save(held, {
        KEY: text, DIGEST: _digest(text, held)}))
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} cannot be written: {messages.brief(error)}; what '
                     f'it says beside arrays takes {len(text):,} bytes: give '
                     'shorter texts, or fewer tasks') from error
  if remote:
    anywhere.write(path, content)
  else:
    whole_files.replace(path, content, (path.absolute().parent,
                                        f'.{path.name[:100]}.'))
  return path


def read(path) -> tuple[dict[str, np.ndarray], dict]:
  """The arrays and the JSON values of a file, which may lie in a bucket.

  Raises:
    FileError: the file is missing, damaged or of another kind.
  """
  arrays, said = _opened(path)
  if said[DIGEST] != _digest(said[KEY], arrays):
    raise FileError(f'{path} was changed since it was written (its SHA-256 '
                    f'differs){_REMEDY}')
  header = json_files.parse(said[KEY], {}, str(path), 'the header',
                            _REMEDY.removeprefix('; '))
  try:
    raw = header.pop(BYTES, {})
    return {name: _from_bytes(a, raw[name]) if name in raw else a
            for name, a in arrays.items()}, header
  except (ValueError, TypeError, AttributeError) as error:
    raise FileError(f'the header of {path} is malformed: {error}'
                    f'{_REMEDY}') from error


def _opened(path) -> tuple[dict[str, np.ndarray], dict]:
  """The arrays of a file, and the texts of its header."""
  if not isinstance(path, (str, os.PathLike)):
    raise FileError(f'there is no file {path}')
  with anywhere.near(path) as near:
    if not near.is_file():
      raise FileError(f'there is no file {path}')
    disk_errors.require_readable(near)
    try:
      with safetensors.safe_open(str(near), framework='numpy') as file:
        said = file.metadata() or {}
        if KEY not in said or DIGEST not in said:
          raise FileError(f'{path} is a safetensors file, but not one that '
                          "mtl_jax has written: its header lacks 'mtl_jax'")
        return {name: np.array(file.get_tensor(name))
                for name in file.keys()}, said
    except FileError:
      raise
    except Exception as error:  # safetensors raises several kinds
      raise FileError(
          f'{path} cannot be read: it is no safetensors file, or a part of one '
          f'({messages.brief(error)}){_REMEDY}') from error


def read_weights(path) -> dict[str, np.ndarray]:
  """The arrays of a file of weights, whichever program wrote it.

  Raises:
    FileError: the file is damaged, or it is a task written by `export`.
  """
  try:
    with safetensors.safe_open(str(path), framework='numpy') as file:
      own = KEY in (file.metadata() or {})
      arrays = {} if own else {name: np.array(file.get_tensor(name))
                               for name in file.keys()}
  except Exception as error:  # safetensors raises several kinds
    raise FileError(f'{path} cannot be read as .safetensors '
                    f'({messages.brief(error)}){_REMEDY}') from error
  if not own:
    return arrays
  arrays, header = read(path)
  require_format(path, header)
  if 'parts' in header:
    raise FileError(f'{path} holds a task, not a network: write its network '
                    'with system.export_network or `mtl-jax export --network`')
  return arrays


def require_format(path, header: dict) -> None:
  """Refuses the header of an export that another version wrote.

  Raises:
    FileError: says the format, and which version reads it.
  """
  if header.get('format') == FORMAT:
    return
  versions = header.get('versions')
  made = versions.get('mtl_jax') if isinstance(versions, dict) else None
  wrote = f'mtl_jax {made}' if made else 'the version'
  raise FileError(
      f'{path} has format {messages.shown(header.get("format"))}; this version '
      f'reads format {FORMAT}: read it with {wrote[:100]} that wrote it, or '
      'export it again with this one')


def texts(**given: str | None) -> dict[str, str]:
  """Texts for a file, by name; '' for `None`.

  Raises:
    ValueError: one is no text, or UTF-8 cannot represent it.
  """
  for name, text in given.items():
    if not isinstance(text, (str, type(None))):
      raise ValueError(f'{name} is {messages.shown(text)}; it must be a string')
    if text and text.encode(errors='replace').decode() != text:
      raise ValueError(f'{name} is {text!r}, which has characters that UTF-8 '
                       'cannot represent; leave them out')
  return {name: str(text or '') for name, text in given.items()}


_REMEDY = '; copy it again from where it was written'


def _in_order(content: bytes) -> bytes:
  """The same file in an order that depends on its content alone; safetensors
  writes the metadata in an order that differs from call to call."""
  start = 8 + int.from_bytes(content[:8], 'little')
  header = json_files.parse(content[8:start], {'__metadata__': dict},
                            'safetensors', 'the header')
  header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
  text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
  text += b' ' * (-len(text) % 8)  # arrays begin at a multiple of 8 bytes
  return len(text).to_bytes(8, 'little') + text + content[start:]


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
  total = hashlib.sha256(text.encode())
  for name, value in sorted(trees.digests(dict(arrays)).items()):
    total.update(f'{name}={value};'.encode())
  return total.hexdigest()


def _as_bytes(array: np.ndarray) -> np.ndarray:
  """The array's bytes, uint8 [*shape, bytes per number]."""
  return np.frombuffer(array.tobytes(), np.uint8).reshape(
      *array.shape, array.dtype.itemsize)


def _from_bytes(array: np.ndarray, dtype: str) -> np.ndarray:
  return np.frombuffer(array.tobytes(), jnp.dtype(dtype)).reshape(
      array.shape[:-1])
