"""Rewrites the tables in README.md from the results.

    python experiments/benchmarks/table.py

Results of a CPU lie in results/, those of a GPU in results/gpu/.
"""

import pathlib

from mtl_jax import json_files

HERE = pathlib.Path(__file__).parent
BEGIN, END = '<!-- results -->', '<!-- end of results -->'


def render(lines: list[dict]) -> str:
  """The Markdown table of result lines, and where they come from."""
  out = ['| case | ms a step, median | min | compared with | ratio | of the '
         'min | target |', '| --- ' * 7 + '|']
  group = None
  for line in lines:
    if line['group'] != group:
      group = line['group']
      out.append(f'| **{group}** | | | | | | |')
    if 'failed' in line:
      out.append(f'| {line["name"]} | failed: {line["failed"]} | | | | | |')
      continue
    out.append(f'| {line["name"]} | {line["ms_median"]:.3f} | '
               f'{line["ms_min"]:.3f} | {_comparison(line)} |')
  return '\n'.join(out + ['', _origin(lines)])


def _comparison(line: dict) -> str:
  if 'ratio' not in line:
    return ' | | | '
  target, met = '', ''
  if 'target' in line:
    at_least = line['at_least']
    reached = (line['ratio'] >= line['target'] if at_least
               else line['ratio'] <= line['target'])
    target = f'{"at least" if at_least else "at most"} {line["target"]:g}x'
    met = '' if reached else ' (missed)'
  return (f'{line["reference"]} | {line["ratio"]:.2f}x | '
          f'{line["ratio_of_min"]:.2f}x | {target}{met}')


def _origin(lines: list[dict]) -> str:
  first, loads = lines[0], [x for line in lines for x in line.get('load', [])]
  hardware = first['hardware']
  versions = ', '.join(
      f'{name} {first["versions"][name]}'
      for name in ('python', 'jax', 'jaxlib', 'optax', 'torch')
      if name in first['versions'])
  cores = f'{hardware["cores"]} cores of {hardware["cpu"]}'
  if hardware['platform'] == 'cpu':
    where = f'on {cores}'
  else:
    precision = first['versions'].get('matmul_precision', 'default')
    where = (f'on {hardware["count"]} x {hardware["device"]} (precision of '
             f'products: {precision}), with {cores}')
  return (f'`{first["command"]}` at {first["commit"]}, {where}; {versions}. '
          f'Load average of the machine in the meantime: {min(loads):.1f} to '
          f'{max(loads):.1f}.')


def render_resnet(lines: list[dict]) -> str:
  """The Markdown table of `gem_resnet18_step.py`, by the clock and by cores."""
  out = ['| case | ms a step, median (quartiles) | / our step | ms of the '
         'cores | / our step | target |', '| --- ' * 6 + '|']
  of = lambda values, form: f'({values[0]:{form}} to {values[1]:{form}})'
  for line in lines:
    if 'failed' in line:
      out.append(f'| {line["name"]} | failed: {line["failed"]} | | | | |')
      continue
    cells = [f'{line["ms_median"]:.0f} {of(line["ms_quartiles"], ".0f")}', '',
             f'{line["core_ms_median"]:.0f}', '', '']
    if 'ratio' in line:
      cells[1] = f'{line["ratio"]:.2f}x {of(line["ratio_quartiles"], ".2f")}'
      cells[3] = (f'{line["core_ratio"]:.2f}x '
                  f'{of(line["core_ratio_quartiles"], ".2f")}')
    if 'target' in line:
      met = ('' if min(line['ratio'], line['core_ratio']) >= line['target']
             else ' (missed)')
      cells[4] = f'at least {line["target"]:g}x by both{met}'
    out.append(f'| {line["name"]} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(out + ['', _origin(lines)])


def render_kernels(lines: list[dict]) -> str:
  """The Markdown table of `kernel_gradient.py`: a row for each convolution."""
  rows: dict[str, dict[str, dict]] = {}
  for line in lines:
    rows.setdefault(line['group'], {})[line['name']] = line
  sizes = list(dict.fromkeys(line['name'] for line in lines))
  out = ['| convolution | ' + ' | '.join(sizes) + ' |',
         '| --- ' * (len(sizes) + 1) + '|']
  for group, row in rows.items():
    cells = [f'{row[size]["core_ms_median"]:.1f} ({row[size]["ms_median"]:.1f})'
             if size in row else '' for size in sizes]
    images, side, channels, outputs, window, stride = row[sizes[-1]]['shape']
    strided = f', stride {stride}' if stride > 1 else ''
    out.append(f'| {group}: {images} of {side}x{side}x{channels} to {outputs}, '
               f'{window}x{window}{strided} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(out + ['', _origin(lines)])


def render_subnetworks(lines: list[dict]) -> str:
  """The Markdown table of `subnetwork_step.py`, with what each holds."""
  out = ['| step | ms, median | min | ratio | target | state, MB | temporary, '
         'MB |', '| --- ' * 7 + '|']
  for line in lines:
    ratio, target = ('', '')
    if 'ratio' in line:
      met = '' if line['ratio'] <= line['target'] else ' (missed)'
      ratio, target = (f'{line["ratio"]:.2f}x',
                       f'at most {line["target"]:g}x{met}')
    out.append(f'| {line["name"]} | {line["ms_median"]:.0f} | '
               f'{line["ms_min"]:.0f} | {ratio} | {target} | '
               f'{line["state_bytes"] / 1e6:.0f} | '
               f'{line["temporary_bytes"] / 1e6:.0f} |')
  return '\n'.join(out + ['', _origin(lines)])


def render_mixed(lines: list[dict]) -> str:
  """The Markdown table of `mixed_batch.py`: a row for each number of tasks."""
  rows: dict[int, dict[str, dict]] = {}
  for line in lines:
    rows.setdefault(line['tasks'], {})[line['name']] = line
  first = next(iter(rows.values()))
  rivals = [name for name in first if name != 'predict_mixed']
  out = ['| tasks | predict_mixed, ms | ' + ' | '.join(
      f'{name} / predict_mixed' for name in rivals) + ' |',
         '| --- ' * (2 + len(rivals)) + '|',
         f'| *kB a task* | {_kilobytes(first["predict_mixed"])} | '
         + ' | '.join(_kilobytes(first[name]) for name in rivals) + ' |']
  for tasks, row in rows.items():
    cells = [f'{row["predict_mixed"]["ms_median"]:.1f}']
    cells += [_against(row[name]) for name in rivals]
    out.append(f'| {tasks} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(out + ['', _origin(lines)])


def render_identify(lines: list[dict]) -> str:
  """The Markdown table of `identify_cost.py`: a row per number of tasks."""
  rows = {}
  for line in lines:
    rows.setdefault(line['name'].split(',')[0], {})[line['at_once']] = line
  out = ['| tasks | one alone, ms | a task, us | of 64 at once, ms | a task, '
         'us | memory of one, MB | of 64, MB |', '| --- ' * 7 + '|']
  for name, row in rows.items():
    cells = []
    for at_once in (1, 64):
      per_task = (1e3 * row[at_once]['ms_median'] / int(name)
                  if name.isdigit() else None)
      cells += [f'{row[at_once]["ms_median"]:.2f}',
                '' if per_task is None else f'{per_task:.0f}']
    cells += ['' if row[n]['bytes'] is None else
              f'{row[n]["bytes"] / 1e6:.0f}' for n in (1, 64)]
    out.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(out + ['', _origin(lines)])


def render_generation(lines: list[dict]) -> str:
  """The Markdown tables of `generation.py`."""
  first = lines[0]
  out = ['| what | measured | target |', '| --- ' * 3 + '|',
         f'| programs compiled for a task iteration of {first["children"]} '
         f'children | {first["programs"]} | at most '
         f'{first["programs_target"]} |']
  for name, words in (('times', 'seconds'),
                      ('times_of_cpu', 'processor seconds')):
    missed = ' (missed)' if first[name] > first['times_target'] else ''
    out.append(f'| the iteration against {first["children"]} times the steps '
               f'of one child, {words} | {first[name]:.2f}x | at most '
               f'{first["times_target"]:g}x{missed} |')
  steps = (f'A child: {first["steps"]} steps of {first["batch"]} images and a '
           'validation, four times.')
  out += ['', f'{steps} {_origin(lines)}']
  if len(lines) > 1:
    out += ['', '| children at once | how | children a minute |',
            '| --- ' * 3 + '|']
    out += [f'| {line["children"]} | {line["how"]} | '
            f'{line["children_per_minute"]:.1f} |' for line in lines[1:]]
  return '\n'.join(out)


def render_growth(lines: list[dict]) -> str:
  """The Markdown table of `growth.py`: a row per thing that is done."""
  rows: dict[str, list[dict]] = {}
  for line in lines:
    rows.setdefault(line['name'], []).append(line)
  numbers = sorted({line['tasks'] for line in lines})
  out = ['| what | ' + ' | '.join(
      f'{tasks} tasks, ms (of the processor)' for tasks in numbers)
         + ' | exponent |', '| --- ' * (len(numbers) + 2) + '|']
  for name, own in rows.items():
    cells = [f'{line["ms"]:.1f} ({line["ms_busy"]:.1f})'
             for line in sorted(own, key=lambda line: line['tasks'])]
    out.append(f'| {name} | ' + ' | '.join(cells)
               + f' | {own[0]["exponent"]:.2f} |')
  return '\n'.join(out + ['', _origin(lines)])


def _kilobytes(line: dict) -> str:
  return f'{line["bytes_per_task"] / 1000:.0f}'


def _against(line: dict) -> str:
  text = f'{line["ratio"]:.2f}x ({line["ratio_of_min"]:.2f}x)'
  if 'target' not in line:
    return text
  missed = '' if line['ratio'] >= line['target'] else ', missed'
  return f'{text}, target {line["target"]:g}x{missed}'


def rewrite(readme: str, table: str, begin: str = BEGIN,
            end: str = END) -> str:
  """The text with the table between its two markers."""
  before, rest = readme.split(begin, 1)
  after = rest.split(end, 1)[1]
  return f'{before}{begin}\n{table}\n{end}{after}'


def _lines(path: pathlib.Path) -> list[dict]:
  return list(json_files.read_lines(
      path, None, 'the file of results',
      'measure again, or restore it with git', may_be_cut=False))


# Of each file: its renderer and the words of its markers.
TABLES = {
    'supermask_step': (render, 'results'),
    'threshold_parts': (render, 'threshold'),
    'mixed_batch': (render_mixed, 'mixed batch'),
    'identify_cost': (render_identify, 'identify'),
    'growth': (render_growth, 'growth'),
    'segment_step': (render, 'segments'),
    'convolution_step': (render, 'convolutions'),
    'kernel_gradient': (render_kernels, 'kernel gradients'),
    'gem_resnet18_step': (render_resnet, 'resnet'),
    'subnetwork_step': (render_subnetworks, 'subnetworks'),
    'generation': (render_generation, 'generation')}


def main():
  path = HERE / 'README.md'
  readme = path.read_text()
  for name, (renderer, words) in TABLES.items():
    file = HERE / 'results' / f'{name}.jsonl'
    if file.exists():
      readme = rewrite(readme, renderer(_lines(file)), f'<!-- {words} -->',
                       f'<!-- end of {words} -->')
  readme = rewrite(readme, on_gpu(HERE / 'results' / 'gpu'), '<!-- gpu -->',
                   '<!-- end of gpu -->')
  path.write_text(readme)


def on_gpu(folder: pathlib.Path) -> str:
  """The tables of all results in a folder, each under its file's name."""
  return '\n\n'.join(
      f'### `{name}.py`\n\n{renderer(_lines(folder / f"{name}.jsonl"))}'
      for name, (renderer, _) in TABLES.items()
      if (folder / f'{name}.jsonl').exists())


if __name__ == '__main__':
  main()
