"""Rows of printable values for the tables of a page and of a terminal."""

import statistics

from mtl_jax.evaluation import metrics as metrics_lib
from mtl_jax.report import drawing


def phases(records: list[dict]) -> list[dict]:
  """Printable means, one row for every phase and method, controls last."""
  found: dict[tuple, list[dict]] = {}
  for r in sorted(last_paths(records), key=lambda r: bool(r['control'])):
    key = r['phase'], r['method'], bool(r['control'])
    found.setdefault(key, []).append(r)
  rows = []
  for (phase, method, control), members in found.items():
    tests = values(members, 'accuracy', 'test')
    size = mean(values(members, 'bytes', 'total'))
    disk = mean(values(members, 'bytes', 'stored'))
    own = mean(values(members, 'bytes', 'dedicated'))
    rows.append({
        'phase': phase, 'method': method, 'control': control,
        'tasks': len({r['task'] for r in members}),
        'accuracy': (answer(members[0], 'test') if len(members) == 1
                     and not tests else _spread(tests)),
        'before': percent(mean(values(members, 'accuracy', 'before'))),
        'lowest': percent(min(tests, default=None)),
        'memory': readable_size(size), 'disk': readable_size(disk),
        'own': readable_size(own),
        'ratio': ratio(size, own),
        'train': readable_seconds(mean(values(members, 'seconds', 'train')))})
  return rows


def last_paths(records: list[dict]) -> list[dict]:
  """The records; of a search that went over its tasks again, the last paths.

  A task's last path has the bytes and seconds of all its paths: the earlier
  ones stay stored, and later ones refer to what they store.

  >>> path = {'phase': 'grow', 'task': 'a', 'search': {'parent': 'root'}}
  >>> found, = last_paths([
  ...     path | {'entry': 'a~1', 'bytes': {'total': 2, 'dedicated': 9}},
  ...     path | {'entry': 'a', 'bytes': {'total': 3, 'dedicated': 9}}])
  >>> found['entry'], found['bytes']
  ('a', {'total': 5, 'dedicated': 9})
  """
  found: dict[tuple, dict] = {}
  for record in records:
    key = ((record['phase'], record['task']) if record.get('search')
           else (record['entry'],))
    earlier = found.pop(key, {})
    found[key] = record | {part: {
        name: value if name in ('dedicated', 'referenced') else
        value + (earlier.get(part) or {}).get(name, 0)
        for name, value in (record.get(part) or {}).items()}
                           for part in ('bytes', 'seconds') if earlier}
  return list(found.values())


def percent(fraction: float | None, digits: int = 1) -> str:
  """A fraction as a percentage; '–' for `None`.

  >>> percent(.9712), percent(None), percent(-1e-9, 2)
  ('97.1 %', '–', '0.00 %')
  """
  if fraction is None or fraction != fraction:
    return '–'
  return f'{round(100 * fraction, digits) + 0.:.{digits}f} %'


def answer(record: dict, split: str) -> str:
  """A task's accuracy, or the mean squared error of a regression.

  >>> answer({'accuracy': {'test': None}, 'loss': {'test': .0123}}, 'test')
  'MSE 0.0123'
  """
  accuracy = (record.get('accuracy') or {}).get(split)
  loss = (record.get('loss') or {}).get(split)
  if accuracy is None and split in (record.get('accuracy') or {}) and loss:
    return f'MSE {loss:.4f}'
  return percent(accuracy, 2)


def readable_seconds(seconds: float | None) -> str:
  """Seconds in readable units.

  >>> readable_seconds(2.345), readable_seconds(150), readable_seconds(9000)
  ('2.35 s', '2 min 30 s', '2 h 30 min')
  """
  if seconds is None:
    return '–'
  if seconds < 99.5:
    return f'{seconds:.{1 if seconds >= 9.995 else 2}f} s'
  whole = round(seconds)
  if whole < 3600:
    return f'{whole // 60} min {whole % 60} s'
  return f'{whole // 3600} h {whole % 3600 // 60} min'


def tasks(records: list[dict]) -> list[dict]:
  """Printable values and sort keys, one row for every task."""
  rows = []
  for r in records:
    basis, size = r.get('basis') or {}, r.get('bytes') or {}
    accuracy, seconds = r.get('accuracy') or {}, r.get('seconds') or {}
    rows.append({
        'name': r['entry'],
        'phase': r['phase'], 'method': r['method'], 'control': r['control'],
        'basis': f'{basis["size"]} {basis["kind"]}' if basis else '–',
        'classes': r.get('classes', '–'), 'steps': r.get('steps', '–'),
        'before': percent(accuracy.get('before')),
        'valid': answer(r, 'valid'), 'test': answer(r, 'test'),
        'density': percent(r.get('kept')),
        'memory': readable_size(size.get('total')),
        'disk': readable_size(size.get('stored')),
        'own': readable_size(size.get('dedicated')),
        'ratio': ratio(size.get('total'), size.get('dedicated')),
        'train': readable_seconds(seconds.get('train')),
        'sort': {'before': accuracy.get('before'),
                 'valid': _rank(r, 'valid'), 'test': _rank(r, 'test'),
                 'density': r.get('kept'), 'memory': size.get('total'),
                 'disk': size.get('stored'), 'train': seconds.get('train')}})
  return rows


def shared(records: list[dict]) -> list[str]:
  """What coefficients need beside their own bytes: the masks of their basis.

  >>> mask = {'bytes': {'masks': 8_000}, 'basis': None}
  >>> own = {'bytes': {'masks': 0}, 'basis': {'kind': 'random', 'size': 9}}
  >>> shared([mask, own])
  ['coefficients of 1 task need 9 masks, which a seed gives without a byte']
  """
  sentences = []
  for drawn in (False, True):
    found = [r for r in records if r.get('basis')
             and (r['basis']['kind'] == 'random') == drawn]
    needed = {} if drawn else _masks(found, records)
    if not found or not (drawn or needed):
      continue
    count = f'{len(found)} task{"s" if len(found) > 1 else ""}'
    if drawn:
      size = max(r['basis']['size'] for r in found)
      sentences.append(f'coefficients of {count} need {size} masks, which a '
                       'seed gives without a byte')
    else:
      total = sum(needed.values())
      sentences.append(
          f'coefficients of {count} need {len(needed)} stored masks beside '
          f'their own bytes: {readable_size(total)}, or '
          f'{readable_size(total / len(found))} for each of these tasks')
  return sentences


def _masks(combined: list[dict], records: list[dict]) -> dict[str, float]:
  """The bytes of every mask that bases have, by the entry that learned it.

  Earlier versions did not record the phase of a basis: its masks then get
  numbers in place of names, and the usual size. {} if no mask is known.

  Args:
    combined: records with a basis of stored masks.
    records: records of all tasks, in learning order.
  """
  sizes = [size for r in records if not r.get('basis')
           for size in values([r], 'bytes', 'masks') if size]
  found: dict[str, float] = {}
  for basis in (r['basis'] for r in combined) if sizes else ():
    made = [r for r in records if r['phase'] == basis.get('phase')]
    made = [r for r in made if (
        r['task'] == made[0]['task'] if basis['kind'] == 'homogeneous'
        else not r.get('repeat'))][:basis['size']]
    if len(made) == basis['size']:
      found |= {r['entry']: sum(values([r], 'bytes', 'masks')) for r in made}
    else:
      usual = statistics.median(sizes)
      found |= {f'{basis["kind"]} {i}': usual for i in range(basis['size'])}
  return found


def _rank(record, split) -> float | None:
  """The sort key of an answer: the accuracy, or minus the loss."""
  accuracy = (record.get('accuracy') or {}).get(split)
  loss = (record.get('loss') or {}).get(split)
  return accuracy if accuracy is not None or loss is None else -loss


def values(records: list[dict], group: str, key: str) -> list[float]:
  """`record[group][key]` of every record that has it."""
  found = ((r.get(group) or {}).get(key) for r in records)
  return [value for value in found if value is not None and value == value]


def mean(numbers: list[float]) -> float | None:
  """The mean; `None` of an empty list."""
  return metrics_lib.mean_and_std(numbers)[0] if numbers else None


def _spread(numbers):
  if not numbers:
    return '–'
  middle, std = metrics_lib.mean_and_std(numbers)
  return (percent(middle) if std is None
          else f'{100 * middle:.1f} ± {percent(std)}')


def readable_size(count: float | None) -> str:
  """Bytes in readable units; '–' for `None`."""
  return '–' if count is None else drawing.readable_bytes(count)


def ratio(size: float | None, own: float | None) -> str:
  """The size relative to a dedicated network's.

  >>> ratio(1, 32), ratio(2, 3), ratio(4, 10), ratio(3, 2), ratio(1, 12345)
  ('1/32', '0.67', '1/2.5', '1.5', '1/12345')
  """
  if not size or not own:
    return '–'
  times = own / size
  return (f'1/{drawing.readable_times(times, "")}' if times >= 1.95
          else f'{size / own:.2g}')
