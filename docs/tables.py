"""What the pages are made of beside their text, from the code and results."""

import dataclasses
import importlib
import inspect
import pathlib
import re
import shutil
import textwrap

# Pages of `experiments` in the order of the results page.
RESULTS = ('comparison', 'supsup', 'impresslearn', 'identity', 'hopsupsup',
           'piggyback', 'subnetworks', 'part', 'munet', 'benchmarks')
ROOT = pathlib.Path(__file__).parents[1]
# Pages that stand at the root of the repository.
WHOLE = {'contributing': 'CONTRIBUTING.md', 'changelog': 'CHANGELOG.md'}
_SECTION = re.compile(r'^(Args|Attributes|Returns|Raises|Yields):\s*$', re.M)
_MARKER = re.compile(r'<!-- (fields|options|choices) ([\w.]+) -->')


def fill(app, docname, source):
  """Replaces a page's markers with tables, and links out of the pages."""
  del app
  text = source[0]
  if docname in WHOLE:
    text = (ROOT / WHOLE[docname]).read_text().replace('](docs/', '](')
  text = _MARKER.sub(lambda m: _MAKERS[m[1]](m[2]), text)
  up = '../' if '/' in docname else ''
  text = re.sub(r'\]\((?:\.\./)+experiments/(\w+)/README\.md(#[\w-]+)?\)',
                rf']({up}results/\1.md\2)', text)
  # Files of the repository that are no page.
  source[0] = re.sub(
      r'(?<!!)\[([^\[\]]+)\]\((?:\.\./)+(?!results/)[^)#:]+\)', r'\1', text)


def write_results(experiments: pathlib.Path, target: pathlib.Path) -> None:
  """Makes pages of `experiments/*/README.md`; their figures beside them."""
  target.mkdir(exist_ok=True)
  for name in RESULTS:
    text = (experiments / name / 'README.md').read_text()
    for alt, figure in re.findall(r'!\[([^\]]*)\]\(([\w.]+)\)', text):
      if (experiments / name / figure).exists():
        shutil.copyfile(experiments / name / figure, target / figure)
      else:
        text = text.replace(f'![{alt}]({figure})', f'*{alt}: not drawn yet*')
    text = re.sub(r'\]\(\.\./(\w+)/README\.md', r'](\1.md', text)
    text = re.sub(r'(?<!!)\[([^\[\]]+)\]\((?!https?:|\w+\.md|#)[^)]+\)', r'\1',
                  text)
    text = re.sub(r'<details><summary>(.*?)</summary>', r'\1:', text)
    text = text.replace('</details>', '')
    page = target / f'{name}.md'
    if not page.exists() or page.read_text() != text:
      page.write_text(text)


def literal_blocks(app, what, name, obj, options, lines):
  """Makes reStructuredText of a plain docstring, before napoleon reads it.

  Indented blocks after an empty line are code, outside of sections; `|` and `*`
  are themselves.
  """
  del app, name, options
  if what == 'module':  # a block alone would lose its indent
    lines[:] = (obj.__doc__ or '').splitlines() + ['']
  inside, section, result = False, False, []
  for number, line in enumerate(lines):
    indent = len(line) - len(line.lstrip())
    if line.strip() and not indent:
      inside = False
      section = bool(_SECTION.match(line))
    before = lines[number - 1] if number else ''
    if (not inside and not section and indent >= 2 and not before.strip()
        and not line.lstrip().startswith(('-', '*'))):
      inside = True
      result += ['::', '']
    example = line.lstrip().startswith('>>>')
    result.append(line if inside or example else _escaped(line))
  lines[:] = result


def _escaped(line: str) -> str:
  """A line whose only markup is backticks; `*args:` may head an entry."""
  entry = re.match(r'\s*\*{0,2}(?=\w+: )', line)
  head = entry[0] if entry else ''
  parts = re.split(r'(`[^`]*`)', line[len(head):])
  for i in range(0, len(parts), 2):
    parts[i] = re.sub(r'([|*])', r'\\\1', parts[i])
    if i and parts[i][:1].isalnum():  # `None`s
      parts[i] = '\\' + parts[i]
  return head + ''.join(parts)


def meanings(text: str | None) -> dict[str, str]:
  """What the Args or Attributes of a docstring say, by name.

  >>> meanings('Sum.\\n\\nArgs:\\n  a, b: two\\n    numbers.\\n  c: third.\\n')
  {'a': 'two numbers.', 'b': 'two numbers.', 'c': 'third.'}
  """
  found: dict[str, str] = {}
  lines = inspect.cleandoc(text or '').splitlines()
  section, names = '', ()
  for line in lines:
    if line and not line.startswith(' '):
      match = _SECTION.match(line)
      section, names = (match[1] if match else ''), ()
    elif section in ('Args', 'Attributes'):
      entry = re.match(r'  (?! )\**([\w, *]+):\s*(.*)', line)
      if entry:
        names = tuple(n.strip(' *') for n in entry[1].split(','))
        found |= {name: entry[2] for name in names}
      elif names:
        found |= {name: f'{found[name]} {line.strip()}'.strip()
                  for name in names}
  return found


def _load(path: str):
  """The object of a dotted path."""
  parts = path.split('.')
  for split in range(len(parts), 0, -1):
    try:
      found = importlib.import_module('.'.join(parts[:split]))
    except ModuleNotFoundError:
      continue
    for part in parts[split:]:
      found = getattr(found, part)
    return found
  raise ValueError(f'there is no {path}')


def _meanings_of(cls: type) -> dict[str, str]:
  """By field, from the class's docstring and those that it refers to."""
  module = inspect.getmodule(cls)
  text = inspect.getdoc(cls) or ''
  found: dict[str, str] = {}
  for name in reversed(re.findall(r'`([\w.]+)`', text)):
    other = module
    try:
      for part in name.removeprefix('mtl_jax.').split('.'):
        other = getattr(other, part)
    except AttributeError:
      try:
        other = _load(name)
      except (ValueError, AttributeError):
        continue
    if callable(other):
      found |= meanings(other.__doc__)
  return found | meanings(text)


def _hint(cls: type, name: str) -> str:
  hint = next(own[name] for own in map(inspect.get_annotations, cls.__mro__)
              if name in own)
  shown = hint.__name__ if isinstance(hint, type) and not hasattr(
      hint, '__args__') else str(hint)
  return re.sub(r'\b[\w.]+\.(\w+)', r'\1', shown).replace(' | None', '')


def fields(path: str) -> str:
  """A table of a dataclass's fields: name, type, default, meaning.

  Raises:
    ValueError: a field has no meaning in any docstring.
  """
  cls = _load(path)
  said, rows = _meanings_of(cls), []
  for field in dataclasses.fields(cls):
    if field.name not in said:
      raise ValueError(f'{path}.{field.name} is explained nowhere: neither in '
                       'the docstring of its class nor in one named there')
    default = 'required' if field.default is dataclasses.MISSING else (
        f'`{field.default!r}`')
    rows.append([f'`{field.name}`', f'`{_hint(cls, field.name)}`', default,
                 said[field.name]])
  if not rows:
    return 'It has no fields.'
  return _table(['field', 'type', 'default', 'meaning'], rows)


def options(path: str) -> str:
  """A table of a function's keyword arguments and their defaults."""
  function = _load(path)
  said = meanings(function.__doc__)
  rows = [[f'`{p.name}`', 'required' if p.default is p.empty
           else f'`{p.default!r}`', said.get(p.name, '')]
          for p in inspect.signature(function).parameters.values()
          if p.kind is not p.VAR_KEYWORD]
  return _table(['argument', 'default', 'meaning'], rows)


def choices(path: str) -> str:
  """A list of a registry's functions: name, first line, keyword arguments."""
  lines = []
  for name, function in sorted(_load(path).items()):
    parameters = [
        p for p in inspect.signature(function).parameters.values()
        if p.kind is not p.VAR_KEYWORD and p.name != 'load']
    taken = ', '.join(f'`{p.name}`' if p.default is p.empty
                      else f'`{p.name}={p.default!r}`' for p in parameters)
    text = (inspect.getdoc(function) or '').split('\n\n')[0]
    lines.append(f'- `{name}`' + (f': {" ".join(text.split())}' if text else '')
                 + (f' Takes {taken}.' if taken else ''))
  return '\n'.join(lines)


_MAKERS = {'fields': fields, 'options': options, 'choices': choices}


def _table(columns, rows) -> str:
  escape = lambda cell: textwrap.dedent(cell).replace('|', r'\|')
  lines = ['| ' + ' | '.join(columns) + ' |', '|' + ' --- |' * len(columns)]
  return '\n'.join(lines + [
      '| ' + ' | '.join(map(escape, row)) + ' |' for row in rows])
