"""The report of a run: one self-contained HTML page and a terminal table.

The page loads nothing: figures are inline SVG, and its content policy forbids
all requests and all scripts but its own, which sorts and filters the table of
tasks and saves figures. All text from names or configs is escaped.

The inputs of the functions are JSON values; accuracies are fractions:

  run      config, command, versions, hardware {device, count, cpu, cores},
           commit, started, seed, backbone {model, weights, fingerprint}
  record   one per learned task: entry, task, phase, method, control, repeat,
           classes, steps, batch_size, seed, accuracy {before, valid, test},
           loss {valid, test}, curve {step, loss, accuracy}, validation (as
           curve, if it was measured while training), density {leaf: d}, kept
           (the density of all masked leaves together), bytes {masks,
           coefficients, values, stats, total, stored, dedicated}, seconds
           {train, busy, validate, evaluate, save}, basis {kind, size, phase},
           data (from `data.labels.facts`), search (if the path evolved; see
           `report.search`)
  summary  names, matrix, before, metrics (see `metrics.summarise`),
           overlap {names, matrix}, seconds_in_all, busy, verified {ok, tasks},
           identity, streams, mixed (see `report.inference`), segments (see
           `evaluation.transparency`)

A record must have `entry`, `task`, `phase`, `method` and `control`; the page
leaves out all else that is missing or `None`.
"""

import base64
import hashlib
import json
import pathlib

from mtl_jax import trees
from mtl_jax.data import labels
from mtl_jax.report import capacity as capacity_report
from mtl_jax.report import figures as figures_lib
from mtl_jax.report import inference as inference_report
from mtl_jax.report import rows as rows_lib
from mtl_jax.storage import anywhere
from mtl_jax.storage import bucket

_TEMPLATES = pathlib.Path(__file__).parent / 'templates'
_LONG = 40  # above this number of tasks, the terminal shows one row per phase
# Metrics shown in a terminal; the page shows all.
_TOLD = ('average_accuracy', 'worst_task', 'anytime_average_accuracy',
         'forgetting', 'learning_curve_area')
_NOTES = 6  # sentences about the data in a terminal; the page shows all
_FOLD = 50  # above this number of tasks, the page folds their table


def render(run: dict, records: list[dict], summary: dict) -> str:
  """The report as the text of an HTML page; the module lists the inputs."""
  import jinja2
  import markupsafe
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True,
      trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
  figures = [figure._replace(svg=markupsafe.Markup(figure.svg))
             for figure in figures_lib.draw(records, summary)]
  metrics = [{**row, 'value': rows_lib.percent(row['value'], 2)}
             for row in summary.get('metrics') or []]
  script = (_TEMPLATES / 'report.js').read_text(encoding='utf-8')
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  return environment.get_template('report.html.j2').render(
      style=markupsafe.Markup(
          (_TEMPLATES / 'report.css').read_text(encoding='utf-8')),
      script=markupsafe.Markup(script), digest=digest,
      title=_title(run, records, summary), run=run, facts=_facts(run),
      config=json.dumps(run.get('config') or {}, indent=2, default=str),
      cards=_cards(records, summary), verified=summary.get('verified'),
      identity=inference_report.rows(summary),
      sentences=inference_report.sentences(summary),
      capacity=capacity_report.sentences(summary),
      notes=[*(summary.get('hints') or []), *labels.sentences(records)],
      phases=rows_lib.phases(records), shared=rows_lib.shared(records),
      figures=figures, metrics=metrics,
      tasks=rows_lib.tasks(records), fold=len(records) > _FOLD)


def write(path, run: dict, records: list[dict], summary: dict) -> None:
  """Writes the page atomically: a reader never sees half a file.

  Args:
    path: path of the page, in an existing folder; or its address in a bucket.
    run: the line of the run's last start.
    records: records of the learned tasks.
    summary: the summary of the run.
  """
  if not bucket.is_remote(path):
    path = pathlib.Path(path)
    if path.is_dir() or not path.absolute().parent.is_dir():
      raise ValueError(f'{path} is no place for a page: name a file in a '
                       'folder that exists')
  anywhere.write(path, render(run, records, summary).encode())


def table(records: list[dict], summary: dict, narrow: bool = False):
  """A `rich.table.Table` of all tasks; if they are many, of all phases.

  Args:
    records: records of the learned tasks.
    summary: the summary of the run.
    narrow: leave out the accuracy before training, or the lowest one.
  """
  import rich.box
  import rich.table
  import rich.text
  lines = [f'{row["title"]} {rows_lib.percent(row["value"], 2)}  '
           f'[{row["citation"]}]'
           for row in (summary.get('metrics') or [])
           if row['name'] in _TOLD]
  if _in_all(summary) is not None:
    lines.append(f'{rows_lib.readable_seconds(_in_all(summary))} in total'
                 f'{_busy(summary, "; devices busy for")}')
  lines += inference_report.sentences(summary)
  lines += capacity_report.sentences(summary)
  lines += labels.sentences(records, _NOTES)
  lines += rows_lib.shared(records)
  lines.append('“of own”: compared with a network trained for the task alone')
  result = rich.table.Table(box=rich.box.SIMPLE_HEAD,
                            collapse_padding=True, pad_edge=False,
                            show_edge=False,
                            caption=rich.text.Text('\n'.join(lines)),
                            caption_justify='left')
  if len(records) > _LONG:
    columns: tuple[str, ...] = (
        'phase', 'method', 'tasks', 'test', 'lowest', 'size', 'of own',
        'train')
    rows = [[r['phase'], _marked(r), r['tasks'], r['accuracy'], r['lowest'],
             r['memory'], r['ratio'], r['train']]
            for r in rows_lib.phases(records)]
  else:
    columns = ('task', 'method', 'before', 'test', 'size', 'of own', 'train')
    rows = [[r['name'], _marked(r), r['before'], r['test'], r['memory'],
             r['ratio'], r['train']] for r in rows_lib.tasks(records)]
  kept = [i for i, column in enumerate(columns)
          if not narrow or column not in ('before', 'lowest')]
  for i in kept:
    result.add_column(columns[i], justify='right' if i >= 2 else 'left',
                      no_wrap=i >= 2, overflow='fold')
  for row in rows:  # as Text: markup in a name is not interpreted
    result.add_row(*(rich.text.Text(str(row[i])) for i in kept))
  return result


def _marked(row: dict) -> str:
  """A row's method, marked if it is a control."""
  return f'{row["method"]} (control)' if row['control'] else row['method']


def _in_all(summary: dict) -> float | None:
  """Seconds of all starts."""
  return summary.get('seconds_in_all', summary.get('seconds'))


def _busy(summary: dict, words: str) -> str:
  share = summary.get('busy')
  return '' if share is None else (
      f'{words} {rows_lib.percent(share)} of the training time')


def _title(run, records, summary):
  count = len({r['task'] for r in records if not r['control']})
  model = (run.get('backbone') or {}).get('model')
  title = f'{trees.counted(count, "task")} in one {model or "network"}'
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
    cpu = f'{cpu or "CPU"}, ' + trees.counted(
        hardware['cores'], 'core')
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
  main, controls = ([r for r in rows_lib.last_paths(records)
                     if bool(r['control']) == control]
                    for control in (False, True))
  tests = rows_lib.values(main, 'accuracy', 'test')
  distinct = len({r['task'] for r in main})
  of = trees.counted(distinct, 'task')
  cards = [(len(main), of.split()[1] if distinct == len(main)
            else f'impressions of {of}',
            f'and {trees.counted(len(controls), "control")}'
            if controls else '')]
  if tests:
    cards.append((rows_lib.percent(rows_lib.mean(tests)), 'mean test accuracy',
                  f'lowest {rows_lib.percent(min(tests))}'))
  shared = {r['task'] for r in controls}
  same = rows_lib.mean(rows_lib.values(
      [r for r in main if r['task'] in shared], 'accuracy', 'test'))
  control = rows_lib.mean(rows_lib.values(controls, 'accuracy', 'test'))
  if control is not None:
    cards.append((rows_lib.percent(control), 'mean of the controls',
                  f'{rows_lib.percent(same)} on the same tasks here'
                  if same is not None else ''))
  cards += [(rows_lib.percent(row['value'], 2), row['title'].lower(), '')
            for row in summary.get('metrics') or []
            if row['name'] == 'forgetting']
  size = rows_lib.mean(rows_lib.values(main, 'bytes', 'total'))
  if size is not None:
    own = rows_lib.mean(rows_lib.values(main, 'bytes', 'dedicated'))
    cards.append((rows_lib.readable_size(size), 'per task, mean',
                  f'dedicated network: {rows_lib.readable_size(own)}'
                  if own else ''))
  if _in_all(summary) is not None:
    cards.append((rows_lib.readable_seconds(_in_all(summary)), 'in total',
                  _busy(summary, 'devices busy for')))
  return cards
