"""Rewrites the table in README.md from the results.

    python experiments/benchmarks/table.py
"""

import json
import pathlib

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
  versions = ', '.join(f'{name} {first["versions"][name]}' for name in
                       ('python', 'jax', 'jaxlib', 'optax', 'torch'))
  return (f'`{first["command"]}` at {first["commit"]}, on {hardware["cores"]} '
          f'cores of {hardware["cpu"]}; {versions}. Load average of the '
          f'machine in the meantime: {min(loads):.1f} to {max(loads):.1f}.')


def rewrite(readme: str, table: str) -> str:
  """The text with the table between its two markers."""
  before, rest = readme.split(BEGIN, 1)
  after = rest.split(END, 1)[1]
  return f'{before}{BEGIN}\n{table}\n{END}{after}'


def main():
  text = (HERE / 'results' / 'supermask_step.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  readme = HERE / 'README.md'
  readme.write_text(rewrite(readme.read_text(), render(lines)))


if __name__ == '__main__':
  main()
