"""Collects results from workdirs, and writes the tables of the pages.

    python experiments/results.py collect WORKDIR FILE.jsonl
    python experiments/results.py tables

`collect` copies a finished run's lines without learning curves. `tables`
rewrites the text between the markers of README.md, docs/results.md and
`experiments/*/README.md` (of the benchmarks too), and the figures, from the
committed results; it computes nothing else.
"""

import functools
import json
import pathlib
import re
import runpy
import sys

import collected
import comparison_tables
import headline
import hopsupsup_tables
import identity_tables
import impresslearn_tables
import munet_tables
import part_tables
import picture
import piggyback_tables
import split_cifar_tables
import subnetworks_tables
import supsup_tables
import systems

from mtl_jax import json_files
from mtl_jax.storage import json_records

HERE = collected.HERE
DROPPED = ('curve', 'density', 'loss', 'batch_size', 'classes')


def collect(workdir: pathlib.Path, target: pathlib.Path) -> None:
  """Writes a run's last start, its tasks and its summary as JSON lines."""
  lines = list(json_files.read_lines(workdir / 'metrics.jsonl', {}, 'the log'))
  last = {line['kind']: line for line in lines}
  kinds = [line['kind'] for line in lines if line['kind'] in ('run', 'summary')]
  if kinds[-1:] != ['summary']:
    raise SystemExit(f'{workdir}: the last start has no summary, so its '
                     'results are not whole; run the same command again')
  run, summary = last['run'], last['summary']
  run.pop('suite_tasks', None)  # a digest of each task
  run['command'] = re.sub(r'--workdir[= ]\S+', '--workdir=DIR', run['command'])
  run = json_files.parse(without_folders(json.dumps(run)), {}, str(workdir),
                         'the line of a start')
  starts = [line for line in lines if line['kind'] == 'run']
  run['starts'] = len(starts)
  run['commits'] = list(dict.fromkeys(line['commit'] for line in starts))
  summary['seconds'] = json_records.total_seconds(lines)
  summary['seconds_whole'] = json_records.whole_seconds(lines)
  for name in ('matrix', 'before', 'overlap', 'names'):
    summary.pop(name, None)
  tasks = [{k: v for k, v in line.items() if k not in DROPPED
            or (k == 'loss' and line['accuracy']['test'] is None)}
           for line in lines if line['kind'] == 'task']
  # The last start's: lines of other settings may stand before them.
  measured = []
  for kind, name in (('identity', 'identity'), ('stream', 'streams')):
    if name in summary:
      measured += summary.pop(name) or []
    else:  # of an earlier version, which did not keep them there
      measured += {(line.get('name', line.get('phase')), line.get('tasks')):
                   line for line in lines if line['kind'] == kind}.values()
  target.parent.mkdir(parents=True, exist_ok=True)
  target.write_text(''.join(json.dumps(line) + '\n'
                            for line in (run, *tasks, *measured, summary)))


def without_folders(text: str) -> str:
  """Absolute paths without their folders: those are of one machine.

  >>> without_folders('--config=a.py:/data/b.txt --c.weights=/data/runs/d.npz')
  '--config=a.py:b.txt --c.weights=d.npz'
  """
  return re.sub(r'(?<![\w./-])/(?:[\w.-]+/)+(?=[\w.-])', '', text)


TABLES = {  # README: markers and what stands between them
    '../README.md': {'systems': systems.table},
    '../docs/results.md': {'headline': headline.table},
    'comparison/README.md': {
        suite: functools.partial(comparison_tables.table, suite)
        for suite in comparison_tables.SUITES} | {
            'datasets_by_task': functools.partial(comparison_tables.by_task,
                                                  'datasets'),
            'grid': comparison_tables.grid},
    'supsup/README.md': {'results': supsup_tables.table,
                         'split': split_cifar_tables.supsup},
    'impresslearn/README.md': {
        suite: functools.partial(impresslearn_tables.table, suite)
        for suite in ('permuted', 'rotated')} | {
            'rates': functools.partial(impresslearn_tables.rates, 'grid'),
            'chosen': functools.partial(impresslearn_tables.chosen, 'chosen',
                                        'rotated'),
            'many_rates': functools.partial(impresslearn_tables.rates,
                                            'many_grid'),
            'many': functools.partial(impresslearn_tables.chosen, 'many',
                                      'permuted'),
            'blocks': impresslearn_tables.blocks,
            'blocks_grid': impresslearn_tables.blocks_grid,
            'split': split_cifar_tables.impresslearn},
    'identity/README.md': {
        name: getattr(identity_tables, name)
        for name in ('scenarios', 'curves', 'outputs', 'streams', 'pools',
                     'costs')},
    'part/README.md': {
        name: getattr(part_tables, name)
        for name in ('accuracy', 'modules', 'sharing', 'segments',
                     'robustness', 'cifar100')},
    'subnetworks/README.md': {
        name: getattr(subnetworks_tables, f'{kind}_table')
        for name, kind in (('accuracy', 'accuracy'), ('capacity', 'capacity'),
                           ('ensembles', 'ensemble'),
                           ('study', 'study'), ('less', 'less'),
                           ('forgetting', 'forgetting'))},
    'munet/README.md': {
        name: functools.partial(munet_tables.preliminary, name)
        for name in ('preliminary', 'one_block')} | {
            'characters': munet_tables.characters,
            'others': munet_tables.others},
    'piggyback/README.md': {'family': piggyback_tables.family,
                            'cifar': piggyback_tables.cifar,
                            'cifar_grid': piggyback_tables.grid},
    'hopsupsup/README.md': {'results': hopsupsup_tables.hopsupsup_table,
                            'grid': hopsupsup_tables.hopsupsup_grid,
                            'load': hopsupsup_tables.hopsupsup_load},
}


def tables() -> None:
  for path, parts in TABLES.items():
    for name, table in parts.items():
      collected.replace_table(HERE / path, name, table())
  identity_tables.draw(HERE / 'identity' / 'curves.svg')
  picture.draw(HERE / 'accuracy_bytes.svg')
  comparison_tables.draw(HERE / 'comparison' / 'accuracy.svg')
  runpy.run_path(str(HERE / 'benchmarks' / 'table.py'), run_name='__main__')


if __name__ == '__main__':
  if sys.argv[1:2] == ['collect'] and len(sys.argv) == 4:
    collect(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
  elif sys.argv[1:] == ['tables']:
    tables()
  else:
    sys.exit(__doc__)
