"""Tables of mu2Net."""

import collected

from mtl_jax.evaluation import metrics
from mtl_jax.report import search as search_report

FOLDER = collected.HERE / 'munet'
# Test accuracy in the sample output of the official analysis notebook
# (ViT-Ti, characters); which configuration made it is not known, presumably
# one whose root was pretrained on ImageNet-21k.
NOTEBOOK = {'mnist': 96.81, 'kmnist': 82.05, 'cmaterdb-bangla': 85.5,
            'cmaterdb-devanagari': 82.4, 'cmaterdb-telugu': 86.2}
NOT_YET = 'No run has been collected yet: `./run.sh` makes them.'


def _final(run: dict, phase: str) -> dict[str, dict]:
  """By task the record of its last path in a phase."""
  return {t['task']: t for t in run['tasks']
          if t['phase'] == phase and not t['repeat']}


def _paths(run: dict, phase: str) -> list[dict]:
  return [t for t in run['tasks'] if t['phase'] == phase]


def tested(run: dict, phase: str, task: str) -> float:
  """Test accuracy in percent of a task's last path in a phase."""
  return 100 * _final(run, phase)[task]['accuracy']['test']


def _tested(found: list[dict], phase: str, task: str) -> str:
  return collected.spread([tested(r, phase, task) for r in found])


def headline() -> list[list[str]]:
  """Rows of the main README's table."""
  rows = []
  for prefix, title in (
      ('preliminary', 'digits of three scripts (CMATERdb), grown from a '
       'random root without blocks'),
      ('characters', 'six sets of characters in a row, twice')):
    found = collected.runs(FOLDER, prefix)
    if found:
      rows.append(['mu2Net', title, collected.spread([
          metrics.mean_and_std([100 * t['accuracy']['test'] for t in
                                _final(r, 'grow').values()])[0]
          for r in found]), str(len(found))])
  return rows


def preliminary(prefix: str) -> str:
  found = collected.runs(FOLDER, prefix)
  if not found:
    return NOT_YET
  rows = []
  for task in _final(found[0], 'grow'):
    own = [_final(r, 'grow')[task] for r in found]
    rows.append([
        task + (' (private)' if own[0]['search']['private'] else ''),
        _tested(found, 'grow', task), collected.spread([
            100 * t['search']['quality'] for t in own]),
        *_cost_cells(
            own, [search_report.introduced(_paths(r, 'grow'))[task]
                  for r in found],
            [sum(t['bytes']['stored'] for t in _paths(r, 'grow')
                 if t['task'] == task) for r in found])])
  return collected.markdown(
      ['task', 'test accuracy, %', 'validation, %', *_COSTS], rows
  ) + _origin(found)


_COSTS = ('weights of the path', 'introduced by the task', 'blocks',
          'bytes written at its commits')


def _cost_cells(own: list[dict], new: list[int],
                stored: list[int]) -> list[str]:
  mean = lambda values: f'{metrics.mean_and_std(values)[0]:,.0f}'
  return [mean([t['search']['weights'] for t in own]),
          mean(new),
          ', '.join(str(sum(c[0].startswith('encoderblock')
                            for c in t['search']['components']))
                    for t in own),
          mean(stored)]


def characters() -> str:
  """Accuracy of every task, evolved and with each control."""
  found = collected.runs(FOLDER, 'characters')
  if not found:
    return NOT_YET
  columns = {'grow': 'mu2Net', 'finetune': 'full fine-tuning',
             'head': 'new head alone', 'adapters': 'adapters alone'}
  rows = []
  for task in _final(found[0], 'grow'):
    rows.append([task, f'{NOTEBOOK[task]:.2f}' if task in NOTEBOOK else '']
                + [_tested(found, phase, task) for phase in columns])
  rows.append(['mean', ''] + [collected.spread([metrics.mean_and_std([
      100 * t['accuracy']['test'] for t in _final(r, phase).values()])[0]
                                                for r in found])
                              for phase in columns])
  rows.append(['weights added per task', ''] + [collected.spread(
      [metrics.mean_and_std(list(search_report.introduced(
          _paths(r, phase)).values()))[0] for r in found], 0)
                                                for phase in columns])
  return collected.markdown(
      ['task', 'official notebook, %', *(f'{title}, %'
                                         for title in columns.values())], rows
  ) + _origin(found)


def others() -> str:
  """The newcomer, and Omniglot as the official protocol tests it."""
  rows = []
  found = collected.runs(FOLDER, 'characters')
  if found:
    rows.append(['Fashion-MNIST, after all of them',
                 _tested(found, 'newcomer', 'fashion_mnist'), ''])
  root = collected.runs(FOLDER, 'root')
  if root:
    rows.append(['Omniglot, our splits: the root itself',
                 _tested(root, 'root', 'omniglot'), ''])
  leaking = collected.runs(FOLDER, 'leaking')
  if leaking:
    rows.append(['Omniglot, official splits: **every test image is a training '
                 'image**', _tested(leaking, 'grow', 'omniglot'), '60.64'])
  return (collected.markdown(['task', 'test accuracy, %',
                              'official notebook, %'], rows)
          if rows else NOT_YET)


def _origin(found: list[dict]) -> str:
  minutes = collected.minutes(found)
  proof = all(r['summary']['verified']['ok'] for r in found)
  return (f'\n\nSeeds: {len(found)}. Mean (± standard deviation over seeds); '
          f'{minutes} min a run. '
          + ('All outputs verified bit for bit. ' if proof
             else '**Not verified.** ')
          + f'{collected.command(found)} on {collected.where(found)}, '
          f'commit {collected.commits(found)}.')
