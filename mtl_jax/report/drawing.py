"""The look of a report's figures: colours, axes and heat maps.

Matplotlib is imported on first use, without pyplot and without a display.
"""

import colorsys

import numpy as np

from mtl_jax.report import vector

# Okabe and Ito's hues, safe for colour-blind readers, without black. The bright
# ones are darkened, so that all can be read on white and on black.
PALETTE = ('#0072b2', '#d55e00', '#009e73', '#c46a9c', '#b97f00', '#2f93c9',
           '#8c6bb1', '#7f7f7f')
COLOURS = 24  # that a reader can still tell apart
ROOT = '#c9ccd1'
CONTROL = '#444444'
MARKERS = ('D', 's', '^', 'v', 'P', 'X')
HOVER = 40  # up to this number of rows, a heat map shows values on hover
NAMED = 40  # up to this number of tasks, an axis has task names
FAINT = 30  # up to this number, learning curves are drawn one by one
RC = {
    'font.family': 'sans-serif', 'font.size': 9, 'text.parse_math': False,
    'font.sans-serif': ['DejaVu Sans', 'Segoe UI', 'Helvetica', 'Arial'],
    'figure.constrained_layout.w_pad': .12,  # browsers use wider letters
    'svg.fonttype': 'none', 'figure.facecolor': 'none',
    'axes.facecolor': 'none', 'savefig.facecolor': 'none',
    'axes.spines.top': False, 'axes.spines.right': False,
    'axes.edgecolor': '#9aa0a6', 'axes.linewidth': .8, 'axes.grid': True,
    'axes.axisbelow': True, 'grid.color': '#e3e5e8', 'grid.linewidth': .7,
    'text.color': '#24292f', 'axes.labelcolor': '#24292f',
    'xtick.color': '#57606a', 'ytick.color': '#57606a',
    'legend.frameon': False, 'lines.linewidth': 1.8,
}


def colours(count: int) -> list[str]:
  """The palette, or a longer one with up to `COLOURS` colours.

  Every colour has a contrast of 3 or more with white and with the dark page.
  """
  if count <= len(PALETTE):
    return list(PALETTE[:count])
  return [_of_luminance(i / count, (.14, .27)[i % 2]) for i in range(count)]


def luminance(colour: str) -> float:
  """The relative luminance of WCAG 2, from 0 (black) to 1 (white).

  >>> round(luminance('#ffffff'), 3), round(luminance('#808080'), 3)
  (1.0, 0.216)
  """
  channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [c / 12.92 if c <= .04045 else ((c + .055) / 1.055) ** 2.4
            for c in channels]
  return float(np.dot(linear, (.2126, .7152, .0722)))


def _of_luminance(hue: float, wanted: float) -> str:
  low, high, colour = 0., 1., ''
  for _ in range(12):
    lightness = (low + high) / 2
    colour = '#' + ''.join(f'{round(255 * c):02x}' for c in
                           colorsys.hls_to_rgb(hue, lightness, .8))
    low, high = ((lightness, high) if luminance(colour) < wanted
                 else (low, lightness))
  return colour


def groups(records: list[dict], keep=None) -> dict[str, list[dict]]:
  """Groups records by phase, basis or method, as finely as colours allow.

  Args:
    records: all records of the run, so that all figures name groups alike.
    keep: predicate that selects records; groups without any are left out.

  >>> main = {'phase': 'basis', 'method': 'supsup', 'control': False}
  >>> extra = {'phase': 'basis', 'method': 'dedicated', 'control': True}
  >>> list(groups([main, extra]))
  ['basis', 'dedicated (control)']
  """
  main = [r for r in records if not r['control']]
  for name in (_phase, _basis, _method):  # the finest with enough colours
    if len({name(r) for r in main}) <= len(PALETTE):
      break
  found: dict[str, list[dict]] = {}
  for record in sorted(records, key=lambda r: r['control']):
    label = (f'{record["method"]} (control)' if record['control']
             else name(record))
    if keep is None or keep(record):
      found.setdefault(label, []).append(record)
  return found


def _phase(record):
  return str(record['phase'])


def _basis(record):
  basis = record.get('basis')
  return (f'{record["method"]}, {basis["kind"]} basis' if basis
          else str(record['phase']))


def _method(record):
  return str(record['method'])


def styles(records: list[dict]) -> dict[str, tuple[str, str]]:
  """The colour and marker of each group of `groups(records)`."""
  found, main, controls = {}, 0, 0
  for label, members in groups(records).items():
    if members[0]['control']:
      found[label] = CONTROL, MARKERS[controls % len(MARKERS)]
      controls += 1
    else:
      found[label] = PALETTE[main % len(PALETTE)], 'o'
      main += 1
  return found


def axes(width, height, columns=1, **kwargs):
  from matplotlib import figure
  canvas = figure.Figure(figsize=(width, height), layout='constrained')
  return canvas, canvas.subplots(1, columns, **kwargs)


def settle(canvas) -> None:
  """Fixes the layout, so that lengths in the axes can be measured in points."""
  canvas.draw_without_rendering()
  canvas.set_layout_engine('none')


def points(ax) -> tuple[float, float]:
  """The length of one point in units of x and of y; call `settle` before."""
  origin, one = ax.transData.inverted().transform(
      [(0, 0), (ax.figure.dpi / 72, ax.figure.dpi / 72)])
  return tuple(abs(one - origin))


def short(name, limit=26) -> str:
  name = str(name)
  return name if len(name) <= limit else name[:limit - 1] + '…'


def name_ticks(ax, names, limit=NAMED, label='task'):
  """Puts names below the x axis, or only positions if there are many."""
  if len(names) <= limit:
    ax.set_xticks(range(len(names)), [short(n) for n in names], fontsize=7.5,
                  rotation=45, ha='right', rotation_mode='anchor')
  else:
    ax.set_xlabel(f'{label} (place in order of learning)')
  ax.set_xlim(-.7, len(names) - .3)
  ax.grid(visible=False, axis='x')


def legend(canvas, ax, entries=None):
  entries = entries or ax.get_legend_handles_labels()
  if len(entries[1]) > 1:
    width = canvas.get_figwidth() * 72 / 8.5  # in letters, approximately
    longest = 5 + .6 * max(len(label) for label in entries[1])
    canvas.legend(*entries, loc='outside upper left', fontsize=8.5,
                  ncols=int(np.clip(width / longest, 1, 5)))


def heat_map(canvas, ax, matrix, names, label, form, limits=(None, None)):
  import matplotlib
  colours = matplotlib.colormaps['viridis'].with_extremes(bad='#00000000')
  size = len(matrix)
  low, high = limits
  finite = matrix[np.isfinite(matrix)]
  low = np.min(finite, initial=np.inf) if low is None else low
  high = np.max(finite, initial=-np.inf) if high is None else high
  if not finite.size:
    low = high = 0.
  if high - low < 1e-9:
    low, high = low - 1, high + 1
  # 'none' embeds one pixel per entry: small whatever the number of tasks.
  image = ax.imshow(matrix, cmap=colours, interpolation='none', vmin=low,
                    vmax=high, aspect='auto')
  ax.grid(visible=False)
  canvas.colorbar(image, ax=ax, label=label, shrink=.8).outline.set_visible(
      False)
  name_ticks(ax, names, 25)
  ax.set_xlim(-.5, size - .5)
  if size <= HOVER:  # invisible marks carry the values
    cells = np.argwhere(np.isfinite(matrix))
    marks, = ax.plot(cells[:, 1], cells[:, 0], 's', alpha=0, zorder=4,
                     ms=190 / size)
    vector.tips(marks, [f'{names[i]}, {names[j]}: {matrix[i, j]:{form}}'
                        for i, j in cells])
  if len(names) <= 25:
    ax.set_yticks(range(size), [short(n) for n in names], fontsize=7.5)
  if size <= 12:
    for i, j in zip(*np.nonzero(np.isfinite(matrix))):
      bright = (matrix[i, j] - low) / (high - low) > .6
      ax.text(j, i, format(matrix[i, j], form), ha='center', va='center',
              fontsize=7.5, color='black' if bright else 'white')


def plot_curves(ax, curves, key, colour, label, style, names=()):
  """Draws the mean of curves, and each curve or, if they are many, the range.

  Args:
    ax: axes.
    curves: dicts with lists 'step' and `key`.
    key: 'loss' or 'accuracy'.
    colour, label, style: of the mean.
    names: names of the curves. If given, curves show their names on hover and
      the mean shows its values.
  """
  scale = 100 if key == 'accuracy' else 1
  steps = np.unique(np.concatenate([c['step'] for c in curves]))
  cells = min(len(steps), 80)  # neighbouring steps are averaged
  place = np.arange(len(steps)) * cells // len(steps)
  x = np.bincount(place, steps) / np.bincount(place)
  rows = np.full((len(curves), cells), np.nan)
  for row, curve in zip(rows, curves):
    values = np.array(curve[key], float) * scale
    good = np.isfinite(values)
    cell = place[np.searchsorted(steps, np.array(curve['step'])[good])]
    count = np.bincount(cell, minlength=cells)
    total = np.bincount(cell, values[good], minlength=cells)
    row[count > 0] = total[count > 0] / count[count > 0]
  rows = np.ma.masked_invalid(rows)
  if len(curves) > FAINT:
    ax.fill_between(x, rows.min(0), rows.max(0), color=colour, alpha=.15, lw=0)
  elif len(curves) > 1:
    for i, row in enumerate(rows):
      keep = ~np.ma.getmaskarray(row)
      line, = ax.plot(x[keep], row[keep], color=colour, alpha=.25, lw=.7)
      if names:
        vector.tips(line, str(names[i]))
  means = rows.mean(0)
  keep = ~np.ma.getmaskarray(means)
  line, = ax.plot(x[keep], means[keep], style, color=colour, label=label,
                  ms=3.5, marker='o' if cells == 1 or names else None)
  if names:
    unit = ' %' if key == 'accuracy' else ''
    vector.tips(line, [f'{label}, step {at:.0f}: {value:.4g}{unit}'
                       for at, value in zip(x[keep], means[keep])])


def readable_times(times: float, thousands: str = ',') -> str:
  """A factor with two digits at least.

  >>> readable_times(1.5), readable_times(2.), readable_times(1234.5)
  ('1.5', '2', '1,234')
  """
  return f'{times:.2g}' if times < 9.95 else f'{times:{thousands}.0f}'


def readable_bytes(count: float) -> str:
  """Bytes as people read them, in powers of 1000.

  >>> readable_bytes(33275), readable_bytes(140), readable_bytes(1.06e6)
  ('33.3 kB', '140 B', '1.06 MB')
  >>> readable_bytes(2.5e12), readable_bytes(1.25e16)
  ('2.5 TB', '12,500 TB')
  """
  for unit in ('B', 'kB', 'MB', 'GB'):
    if abs(count) < 999.5:
      return f'{count:.3g} {unit}'
    count /= 1000
  return f'{count:.3g} TB' if count < 999.5 else f'{count:,.0f} TB'
