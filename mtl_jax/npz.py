"""NumPy's archives of arrays."""

import zipfile
from typing import IO


def require_whole(stream: IO[bytes]) -> None:
  """Refuses a damaged archive.

  NumPy reads as many numbers as an array's header says. If a changed header
  says fewer or begins them earlier, it does not meet the end of the member, at
  which its CRC-32 is compared.

  Args:
    stream: an `.npz` file; it is read from its beginning afterwards.

  Raises:
    zipfile.BadZipFile: it is no archive, or a member has changed; names it.
  """
  with zipfile.ZipFile(stream) as archive:
    damaged = archive.testzip()
  if damaged is not None:
    raise zipfile.BadZipFile(f'{damaged} was changed since it was written (its '
                             'CRC-32 differs)')
  stream.seek(0)
