"""The report of a run: one self-contained HTML page and a terminal table.

The page loads nothing: figures are inline SVG, and its content policy forbids
any request. Everything that comes from names or configs is escaped.

What the functions read (all of it JSON; accuracies are fractions):

  run      config, command, versions, hardware {device, count, cpu, cores},
           commit, started, seed, backbone {model, weights, fingerprint}
  record   one per learned task: entry, task, phase, method, control, repeat,
           classes, steps, batch_size, seed, accuracy {before, valid, test},
           loss {valid, test}, curve {step, loss, accuracy}, density {leaf: d},
           bytes {masks, coefficients, values, stats, total, stored,
           dedicated}, seconds {train, evaluate, save}, basis {kind, size},
           data (as `data.labels.facts` makes it),
           search (of paths that evolved; see `report.search`)
  summary  names, matrix, before, metrics (see `metrics.summarise`),
           overlap {names, matrix}, seconds_in_all, verified {ok, tasks},
           identity, streams, mixed (see `report.inference`), segments (see
           `evaluation.transparency`)

A record must have `entry`, `task`, `phase`, `method` and `control`; anything
else that is missing or `None` is left out of the page.
"""

import json
import os
import pathlib

from mtl_jax.data import labels
from mtl_jax.evaluation import metrics as metrics_lib
from mtl_jax.report import capacity as capacity_report
from mtl_jax.report import drawing
from mtl_jax.report import figures as figures_lib
from mtl_jax.report import inference as inference_report

_TEMPLATES = pathlib.Path(__file__).parent / 'templates'
_LONG = 40  # a terminal table of more tasks than this has one row per phase
_NOTES = 6  # sentences about the data in a terminal; the page has them all
_FOLD = 50  # and the page's table of tasks is folded


def render(run: dict, records: list[dict], summary: dict) -> str:
  """The report as the text of an HTML page; see the module for the inputs."""
  import jinja2
  import markupsafe
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True,
      trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
  figures = [figure._replace(svg=markupsafe.Markup(figure.svg))
             for figure in figures_lib.draw(records, summary)]
  metrics = [{**row, 'value': percent(row['value'], 2)}
             for row in summary.get('metrics') or []]
  return environment.get_template('report.html.j2').render(
      title=_title(run, records, summary), run=run, facts=_facts(run),
      config=json.dumps(run.get('config') or {}, indent=2, default=str),
      cards=_cards(records, summary), verified=summary.get('verified'),
      identity=inference_report.rows(summary),
      sentences=inference_report.sentences(summary),
      capacity=capacity_report.sentences(summary),
      notes=[*(summary.get('hints') or []), *labels.sentences(records)],
      phases=phases(records), figures=figures, metrics=metrics,
      tasks=_task_rows(records), fold=len(records) > _FOLD)


def write(path, run: dict, records: list[dict], summary: dict) -> None:
  """Writes the page; a reader sees the old file or the new one, never half."""
  path = pathlib.Path(path)
  text = render(run, records, summary)
  partial = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    partial.write_text(text, encoding='utf-8')
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def table(records: list[dict], summary: dict):
  """A `rich.table.Table` of all tasks, or of all phases if tasks are many."""
  import rich.box
  import rich.table
  import rich.text
  lines = [f'{row["title"]} {percent(row["value"], 2)}  [{row["citation"]}]'
           for row in (summary.get('metrics') or [])
           if row['name'] in ('average_accuracy', 'forgetting')]
  if _in_all(summary) is not None:
    lines.append(f'{readable_seconds(_in_all(summary))} in all')
  lines += inference_report.sentences(summary)
  lines += capacity_report.sentences(summary)
  lines += labels.sentences(records, _NOTES)
  lines.append('“of own”: compared with a network of its own')
  result = rich.table.Table(box=rich.box.SIMPLE_HEAD,
                            collapse_padding=True, pad_edge=False,
                            caption=rich.text.Text('\n'.join(lines)),
                            caption_justify='left')
  if len(records) > _LONG:
    columns: tuple[str, ...] = (
        'phase', 'method', 'tasks', 'test', 'lowest', 'size', 'of own',
        'train')
    rows = [[r['phase'], _marked(r), r['tasks'], r['accuracy'], r['lowest'],
             r['memory'], r['ratio'], r['train']] for r in phases(records)]
    right = 2
  else:
    columns = ('task', 'method', 'before', 'test', 'size', 'of own', 'train')
    rows = [[r['name'], _marked(r), r['before'], r['test'], r['memory'],
             r['ratio'], r['train']] for r in _task_rows(records)]
    right = 2
  name = max((str(row[0]) for row in rows), key=len, default='')
  for i, column in enumerate(columns):
    result.add_column(column, justify='right' if i >= right else 'left',
                      no_wrap=i >= right or len(name) < 25, overflow='fold')
  for row in rows:  # as Text: a name is never read as markup
    result.add_row(*(rich.text.Text(str(cell)) for cell in row))
  return result


def _marked(row: dict) -> str:
  """A row's method, and whether it stands there for comparison."""
  return f'{row["method"]} (control)' if row['control'] else row['method']


def phases(records: list[dict]) -> list[dict]:
  """One row of printable means for every phase and method, controls last."""
  found: dict[tuple, list[dict]] = {}
  for r in sorted(records, key=lambda r: bool(r['control'])):
    key = r['phase'], r['method'], bool(r['control'])
    found.setdefault(key, []).append(r)
  rows = []
  for (phase, method, control), members in found.items():
    tests = _values(members, 'accuracy', 'test')
    size = _mean(_values(members, 'bytes', 'total'))
    disk = _mean(_values(members, 'bytes', 'stored'))
    own = _mean(_values(members, 'bytes', 'dedicated'))
    rows.append({
        'phase': phase, 'method': method, 'control': control,
        'tasks': len(members),
        'accuracy': (answer(members[0], 'test') if len(members) == 1
                     and not tests else _spread(tests)),
        'before': percent(_mean(_values(members, 'accuracy', 'before'))),
        'lowest': percent(min(tests, default=None)),
        'memory': _size(size), 'disk': _size(disk), 'own': _size(own),
        'ratio': _ratio(size, own),
        'train': readable_seconds(_mean(_values(members, 'seconds', 'train')))})
  return rows


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


def _in_all(summary: dict) -> float | None:
  """Seconds of all starts."""
  return summary.get('seconds_in_all', summary.get('seconds'))


def readable_seconds(seconds: float | None) -> str:
  """Seconds as people read them.

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


def _title(run, records, summary):
  count = len({r['task'] for r in records if not r['control']})
  model = (run.get('backbone') or {}).get('model')
  title = (f'{count} task{"" if count == 1 else "s"} in one '
           f'{model or "network"}')
  failed = not (summary.get('verified') or {'ok': True})['ok']
  return title if failed else f'{title} that was never changed'


def _facts(run):
  """Versions, hardware and origin of the run, as (word, value) pairs."""
  backbone, hardware = run.get('backbone') or {}, run.get('hardware') or {}
  device = hardware.get('device')
  if device and hardware.get('count'):
    device = f'{hardware["count"]} × {device}'
  cpu = hardware.get('cpu')
  if hardware.get('cores'):
    cpu = f'{cpu or "CPU"}, {hardware["cores"]} cores'
  weights = backbone.get('weights')
  facts = [
      ('backbone', backbone.get('model')),
      ('weights', f'{weights:,}' if weights is not None else None),
      ('fingerprint', backbone.get('fingerprint')),
      ('seed', run.get('seed')), ('started', run.get('started')),
      ('device', device), ('host', cpu), ('commit', run.get('commit')),
      ('versions', ', '.join(f'{name} {version}' for name, version in
                             (run.get('versions') or {}).items()))]
  return [(word, value) for word, value in facts if value not in (None, '')]


def _cards(records, summary):
  """The headline numbers, as (number, what it is, detail) triples."""
  main = [r for r in records if not r['control']]
  controls = [r for r in records if r['control']]
  tests = _values(main, 'accuracy', 'test')
  distinct = len({r['task'] for r in main})
  what = ('tasks' if distinct == len(main) else
          f'impressions of {distinct} tasks')
  cards = [(len(main), what,
            f'and {len(controls)} controls' if controls else '')]
  if tests:
    cards.append((percent(_mean(tests)), 'mean test accuracy',
                  f'lowest {percent(min(tests))}'))
  shared = {r['task'] for r in controls}
  same = _mean(_values([r for r in main if r['task'] in shared],
                       'accuracy', 'test'))
  control = _mean(_values(controls, 'accuracy', 'test'))
  if control is not None:
    cards.append((percent(control), 'mean of the controls',
                  f'{percent(same)} on the same tasks here'
                  if same is not None else ''))
  cards += [(percent(row['value'], 2), row['title'].lower(), '')
            for row in summary.get('metrics') or []
            if row['name'] == 'forgetting']
  size = _mean(_values(main, 'bytes', 'total'))
  if size is not None:
    own = _mean(_values(main, 'bytes', 'dedicated'))
    cards.append((_size(size), 'per task, mean',
                  f'a network of its own: {_size(own)}' if own else ''))
  if _in_all(summary) is not None:
    cards.append((readable_seconds(_in_all(summary)), 'in all', ''))
  return cards


def _task_rows(records):
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
        'density': percent(_mean(list((r.get('density') or {}).values()))),
        'memory': _size(size.get('total')), 'disk': _size(size.get('stored')),
        'own': _size(size.get('dedicated')),
        'ratio': _ratio(size.get('total'), size.get('dedicated')),
        'train': readable_seconds(seconds.get('train'))})
  return rows


def _values(records, group, key):
  values = ((r.get(group) or {}).get(key) for r in records)
  return [value for value in values if value is not None and value == value]


def _mean(values):
  return metrics_lib.mean_and_std(values)[0] if values else None


def _spread(values):
  if not values:
    return '–'
  mean, std = metrics_lib.mean_and_std(values)
  return percent(mean) if std is None else f'{100 * mean:.1f} ± {percent(std)}'


def _size(count):
  return '–' if count is None else drawing.readable_bytes(count)


def _ratio(size, own):
  """How many times smaller than a network of its own: '1/32'."""
  if not size or not own:
    return '–'
  times = own / size
  return f'1/{times:.0f}' if times >= 1.5 else f'{size / own:.2g}'
