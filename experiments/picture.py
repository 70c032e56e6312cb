"""The main README's picture: accuracy against bytes per task.

Every line joins a method with its baseline on the same tasks. Bytes are those
of an impression's arrays. What tasks share (a basis, earlier components) is not
counted again.
"""

import pathlib
import statistics

import collected
import impresslearn_tables

_COMBINED = tuple(f'heterogeneous_{k}'
                  for k in (*impresslearn_tables.SIZES, 200))
# folder, prefixes (of those that have a phase, the last one is shown), title,
# colour, the system's phases, and the phase it is compared by (`None`: nothing
# was).
SHOWN = (
    ('impresslearn', ('rotated', 'chosen'),
     'ImpressLearn: RotatedMNIST, K = 3 to 100', 'C0', _COMBINED, 'dedicated'),
    ('impresslearn', ('permuted', 'many'),
     'ImpressLearn: PermutedMNIST, K = 3 to 200', 'C9', _COMBINED,
     'dedicated'),
    ('supsup', ('permuted_lenet',), 'SupSup: PermutedMNIST, LeNet-300-100',
     'C2', ('supermasks',), None),
    ('supsup', ('rotated_fc1024',), 'SupSup: RotatedMNIST, FC1024', 'C1',
     ('supermasks',), None),
    ('subnetworks', ('mnist_fashion',), 'Subnetworks: MNIST and Fashion-MNIST',
     'C3', ('subnetworks',), 'dense'),
    ('part', ('five_tasks',), 'PaRT: digits, clothes and characters', 'C4',
     ('part',), 'single'),
    ('munet', ('characters',), 'mu2Net: six sets of characters', 'C5',
     ('grow',), 'finetune'),
)


def points(folder: str, prefixes: tuple[str, ...],
           phase: str) -> tuple[float, float] | None:
  """(bytes a task, mean test accuracy in percent) of a phase, or `None`."""
  found = [point for prefix in prefixes
           for point in [_point(folder, prefix, phase)] if point]
  return found[-1] if found else None


def _point(folder: str, prefix: str, phase: str) -> tuple[float, float] | None:
  """The same of one config's runs.

  If a phase learned a task several times, its last impression counts.
  """
  values = []
  for run in collected.runs(collected.HERE / folder, prefix):
    last = {t['task']: t for t in run['tasks']
            if t['phase'] == phase and not t['repeat']}
    if last:
      values.append(tuple(
          statistics.mean(of(t) for t in last.values()) for of in (
              lambda t: t['bytes']['total'],
              lambda t: 100 * t['accuracy']['test'])))
  if not values:
    return None
  sizes, accuracy = zip(*values)
  return statistics.mean(sizes), statistics.mean(accuracy)


def draw(target: pathlib.Path) -> None:
  """Writes the picture as SVG, the same bytes for the same results."""
  import matplotlib.pyplot as plt
  plt.rcParams['svg.hashsalt'] = target.name
  figure, ax = plt.subplots(figsize=(8.2, 4.4))
  for folder, prefixes, label, colour, phases, control in SHOWN:
    found = [point for phase in phases
             for point in [points(folder, prefixes, phase)] if point]
    if not found:
      continue
    beside = points(folder, prefixes, control) if control else None
    if beside:
      ax.plot(*zip(found[-1], beside), ':', color=colour, lw=1)
      ax.plot(*beside, 'o', mfc='white', color=colour, ms=7)
    ax.plot(*zip(*found), 'o-', color=colour, ms=6, lw=1.2, label=label)
  ax.plot([], [], 'o', mfc='white', color='0.4', ms=7,
          label='what it is compared by, on the same tasks:\na supermask, a '
          'dense or fine-tuned network')
  ax.set(xscale='log', xlabel='bytes that a task takes beside the backbone '
         '(lower is better)', ylabel='test accuracy, %', ylim=(0, 100))
  ax.grid(alpha=.25)
  for side in ('top', 'right'):
    ax.spines[side].set_visible(False)
  ax.legend(fontsize=7.5, loc='lower right', frameon=False)
  figure.tight_layout()
  figure.savefig(target, metadata={'Date': None})
  plt.close(figure)
