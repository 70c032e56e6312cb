"""Where a sweep keeps its runs, their output, and its table."""

import pathlib
import sys
from typing import NamedTuple

from mtl_jax import messages
from mtl_jax.storage import bucket as bucket_lib
from mtl_jax.storage import folders
from mtl_jax.storage import mirror as mirror_lib


class Place(NamedTuple):
  """The workdir of a sweep.

  Attributes:
    folder: has the logs and the table; of a bucket, a folder of this machine.
    bucket: `None` if the sweep is on a disk.
  """
  folder: pathlib.Path
  bucket: bucket_lib.Bucket | None

  @classmethod
  def of(cls, path: str) -> 'Place':
    """The place at a path, or at the address of a bucket.

    Raises:
      ValueError: the path is empty, or that of a file or of one run, or the
        address is unknown.
    """
    mirror = mirror_lib.of(path)
    if mirror is None:
      folder = folders.local(path).absolute()
      if folder.exists() and not folder.is_dir():
        raise ValueError(f'--workdir={path} is a file; name a folder')
      if (folder / 'backbone.json').exists():
        raise ValueError(f'--workdir={path} is the workdir of one run; give '
                         'another folder for the runs of a sweep')
      return cls(folder, None)
    return cls(mirror.base / 'sweep', mirror.bucket)

  def workdir(self, name: str) -> str:
    """The workdir of a run."""
    return (str(self.folder / name) if self.bucket is None
            else f'{self.bucket.address}/{name}')

  def log(self, name: str) -> pathlib.Path:
    """The file with a run's output."""
    return self.folder / 'logs' / f'{name}.log'

  def send(self, file: pathlib.Path) -> None:
    """Copies a file of the folder to the bucket; a failure is printed."""
    if self.bucket is None or not file.exists():
      return
    try:
      self.bucket.write(file.relative_to(self.folder).as_posix(),
                        file.read_bytes())
    except Exception as error:  # of any store
      print(f'{file} could not be copied to {self.bucket.address} '
            f'({messages.brief(error)})', file=sys.stderr)
