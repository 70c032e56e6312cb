"""One command line: help, sub-commands, and how all of them end."""

import importlib
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys

import pytest
import tiny

import mtl_jax
from mtl_jax import commands
from mtl_jax import host
from mtl_jax.commands import ends
from mtl_jax.config import files
from mtl_jax.config import overrides
from mtl_jax.report import terminal
from mtl_jax.storage import json_records


@pytest.mark.parametrize('argv', [['--help'], ['-h'], ['help']])
def test_help_ends_well_and_has_three_examples(argv, capsys):
  assert commands.main(argv, 'python -m mtl_jax') == 0
  said = capsys.readouterr().out
  assert said.count('  python -m mtl_jax ') >= 3
  assert all(f'  {name} ' in said for name in commands.COMMANDS)


@pytest.mark.parametrize('name', commands.COMMANDS)
def test_every_command_has_help_with_examples(name, capsys):
  for flag in ('--help', '-h'):
    assert commands.main([name, flag], 'mtl-jax') == 0
    said = capsys.readouterr().out
    module = importlib.import_module(commands.COMMANDS[name][0])
    assert len(module.EXAMPLES) >= 3
    assert said.count(f'  mtl-jax {name}') >= 3
    assert ' '.join(module.DESCRIPTION.split())[:40] in ' '.join(said.split())


@pytest.mark.parametrize('name', [None, *commands.COMMANDS])
def test_help_is_at_most_80_columns_wide(name, capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '80')
  assert commands.main([*filter(None, [name]), '--help'],
                       'python -m mtl_jax') == 0
  lines = capsys.readouterr().out.splitlines()
  commands_to_copy = '  python -m mtl_jax '  # these stay on one line
  assert not [line for line in lines if len(line) > 80
              and not line.startswith(commands_to_copy)]


def test_the_flags_of_examples_exist():
  for name, (where, _) in commands.COMMANDS.items():
    module = importlib.import_module(where)
    for line, _ in module.EXAMPLES:
      words = line.partition(' | ')[0].partition(' > ')[0].partition(' && ')[0]
      assert commands.parse(module, shlex.split(words)[1:], name)


def commands_of_the_docs():
  """(name of a shipped config, fields that the command sets), with its line."""
  helps = [line for where, _ in commands.COMMANDS.values()
           for line, _ in importlib.import_module(where).EXAMPLES]
  pages = [tiny.ROOT / 'README.md', *(tiny.ROOT / 'docs').glob('*.md')]
  blocks = [block.replace('\\\n', ' ') for page in pages
            for block in re.findall('```sh\n(.*?)```', page.read_text(
                encoding='utf-8'), re.DOTALL)]
  for line in [*helps, *(line for b in blocks for line in b.splitlines())]:
    config = re.search(r'--config=([^ ]+)', line)
    fields = re.findall(r'--config\.([^ =]+)=([^ ]+)', line)
    name = config and config[1].removeprefix('configs/').removesuffix('.py')
    if fields and name in files.shipped():
      yield name, [(field, value.split(',')[0]) for field, value in fields]


def test_the_fields_of_examples_exist_in_their_configs():
  found = list(commands_of_the_docs())
  assert len(found) >= 4
  for name, fields in found:
    overrides.apply(files.load(name), fields)


def test_main_alone_still_helps():
  done = tiny.call([sys.executable, '-m', 'mtl_jax.main', '--help'])
  assert done.returncode == 0 and done.stderr == ''
  assert 'python -m mtl_jax.main --config=quickstart' in done.stdout


def test_list_configs(capsys):
  assert commands.main(['run', '--list_configs']) == 0
  listed = capsys.readouterr().out
  assert commands.main(['--list_configs']) == 0
  assert capsys.readouterr().out == listed
  assert re.search('^quickstart +Twenty permuted-digits', listed, re.MULTILINE)


def test_every_field_of_a_config_is_listed_as_it_can_be_given(capsys):
  assert commands.main(['configs', 'quickstart', '--config.seed=3']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert '--config.seed=3' in lines
  assert '--config.tensorboard=False' in lines
  assert '--config.phases.basis.batch_size=64' in lines
  assert '# --config.phases.basis.early_stop.patience=3' in lines


@pytest.mark.parametrize('argv, said', [
    (['rnu'], "there is no command 'rnu' (did you mean: run?); known: run"),
    (['run', '--wrkdir=x'], "unknown argument '--wrkdir=x' (did you mean: --"),
    (['run', 'quickstart'],
     "unknown argument 'quickstart'; a config is given as --config=quickstart"),
    (['run', '--config=quickstart', '--workdir=x', 'x'],
     "unknown argument 'x'; see"),
    (['verify', '--workdir=x', '--config.seed=1'], 'no config is read here'),
    (['verify'], 'the following arguments are required: --workdir'),
    (['run', '--config=quickstart'], '--workdir must have a value'),
    (['run', '--workdir=x'], '--config must have a value'),
    (['run', '--config=quickstart', '--workdir=x', '--jax_platfroms=cpu'],
     'JAX has no such flag (did you mean: jax_platforms'),
    (['run', '--config=quickstart', '--workdir=x', '--cpu_devices=0'],
     '--cpu_devices is 0'),
    (['run', '--config=quickstart', '--workdir=x', '--jax_enable_x64=maybe'],
     "--jax_enable_x64 is 'maybe'; it must be True or False"),
    (['run', '--config=quickstart', '--workdir=x', '--num_processes=2'],
     'give --coordinator=HOST:PORT as well'),
    (['run', '--config=folder:', '--workdir=x'], 'names no folder'),
    (['run', '--config=folder:a=,b=', '--workdir=x'], 'names no folder'),
    (['run', '--config=quickstart', '--workdir=a\0b'], 'the path is'),
    (['report', '--workdir=/nowhere'], 'there is no folder /nowhere'),
    (['configs', 'quickstrt'], 'did you mean: quickstart?')])
def test_what_is_wrong_is_said_in_one_line(argv, said, capsys, tmp_path,
                                           monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert commands.main(argv) in (1, 2)
  out, err = capsys.readouterr()
  assert out == '' and err.startswith('error: ') and err.count('\n') == 1
  assert said in err
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('flag, said', [
    ('gs:/bucket', 'gs:/bucket is no address: write gs://BUCKET/RUN'),
    ('gx://b/x', "gx://b/x: fsspec knows no protocol 'gx'; write gs://"),
    ('memory://nothing/x', 'there is no workdir at memory://nothing/x')])
@pytest.mark.parametrize('name', ['run', 'verify', 'report', 'inspect'])
def test_addresses_that_are_refused(name, flag, said, capsys, tmp_path,
                                    monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / 'staging'))
  more = ['--config=quickstart'] if name == 'run' else []
  if name == 'run' and 'memory' in flag:
    return  # where a run may begin
  assert commands.main([name, f'--workdir={flag}', *more]) == 1
  err = capsys.readouterr().err
  assert err.startswith('error: ') and err.count('\n') == 1 and said in err
  assert {path.name for path in tmp_path.iterdir()} <= {'staging'}


def test_no_platform_of_that_name(tmp_path):
  done = tiny.call(tiny.command(tmp_path / 'run', config='configs/quickstart'
                                '.py'), JAX_PLATFORMS='bogus')
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert done.stderr.startswith('error: JAX finds no device: ')
  assert 'JAX_PLATFORMS=cpu' in done.stderr
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('error, code, said', [
    (host.Stopped(15), 143, 'stopped by SIGTERM; to go on, start it again: '),
    (host.Stopped(2), 130, 'stopped by Ctrl-C; to go on'),
    (host.Stopped(1), 129, 'stopped by SIGHUP; to go on'),
    (KeyboardInterrupt(), 130, 'stopped by Ctrl-C'),
    (ValueError('no'), 1, 'error: no'), (OSError(), 1, 'error: OSError'),
    (PermissionError(13, 'Permission denied', 'a/b'), 1,
     'error: a/b: Permission denied\n'),
    (OSError(28, 'No space left on device', 'a/b'), 1,
     'error: a/b: No space left on device; make room there, and give the same '
     'command again. What was finished is kept\n'),
    (MemoryError(), 1, 'too little memory. Give a smaller')])
def test_codes(error, code, said, capsys):
  def fail():
    raise error
  assert ends.guarded(fail) == code
  assert said in capsys.readouterr().err


def test_faults_of_ours_keep_their_traceback():
  def fail():
    raise KeyError('a bug')
  with pytest.raises(KeyError):
    ends.guarded(fail)


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'cp1252'])
def test_what_a_terminal_has_not_is_spelled_otherwise(encoding, monkeypatch):
  raw = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(raw, encoding=encoding))
  ends.plain_output()
  print('“of own”: 97.1 ± 0.2 × – “Ж”')
  sys.stdout.flush()
  said = raw.getvalue().decode(encoding)
  assert 'of own' in said and '97.1' in said and '?' in said
  if encoding == 'ascii':
    assert said == '"of own": 97.1 +- 0.2 x - "?"\n'


def test_a_report_is_of_one_start(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  log = folder / 'metrics.jsonl'
  lines = log.read_text().splitlines(keepends=True)
  start = next(line for line in lines if '"kind": "run"' in line)
  json_records.append_line(log, json.loads(start) | {  # it was killed
      'command': 'mtl-jax run --config=few'})
  assert commands.main(['report', f'--workdir={folder}']) == 1
  assert 'the last start in' in (said := capsys.readouterr().err)
  assert ('start it again with its command, and it goes on: mtl-jax run '
          '--config=few\n') in said
  tiny.learn(tiny.make('few'), folder)  # the remedy
  assert commands.main(['report', f'--workdir={folder}']) == 0


def test_a_task_that_is_gone_is_not_passed_over(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  page = (folder / 'report.html').read_bytes()
  task = folder / 'tasks' / 'permuted-00'
  for damage in ((task / '_CHECKPOINT_METADATA').unlink,
                 lambda: shutil.rmtree(task)):
    damage()
    for name in ('inspect', 'report'):
      assert commands.main([name, f'--workdir={folder}']) == 1
      out, err = capsys.readouterr()
      assert f'error: {folder} lacks 1 task: task permuted-00: ' in err
      assert ('permuted-01' in out) == (name == 'inspect')
  assert (folder / 'report.html').read_bytes() == page
  assert "start the run's command, which makes the task again" in err
  tiny.learn(tiny.make('few'), folder)  # the remedy
  for name in ('inspect', 'report'):
    assert commands.main([name, f'--workdir={folder}']) == 0


def test_no_task_is_left_of_a_run(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  shutil.rmtree(folder / 'tasks')
  assert commands.main(['inspect', f'--workdir={folder}']) == 1
  assert 'its folder is gone; restore it' in capsys.readouterr().err


def test_a_report_has_tasks_whose_lines_were_removed(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  log = folder / 'metrics.jsonl'
  lines = log.read_text().splitlines(keepends=True)
  log.write_text(''.join(line for line in lines if not (
      '"kind": "task"' in line and '"entry": "permuted-00"' in line)))
  assert commands.main(['report', f'--workdir={folder}']) == 0
  out, err = capsys.readouterr()
  assert 'permuted-00' in out and err == ''


def test_a_report_says_of_what_its_averages_are(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  mtl_jax.load(folder).rename('permuted-00', 'first')
  assert commands.main(['report', f'--workdir={folder}']) == 0
  out, err = capsys.readouterr()
  assert 'permuted-00' not in out and 'permuted-01' in out
  assert err == ('note: averages and figures are those of the last start, '
                 'which also had the tasks permuted-00\n')


def test_a_factory_that_makes_no_source_is_one_sentence(tmp_path, capsys):
  config = tmp_path / 'mine.py'
  config.write_text(
      'from mtl_jax.data import sources\n'
      "sources.register('nothing', lambda: None)\n"
      'def get_config():\n'
      '  import ml_collections\n'
      '  return ml_collections.ConfigDict(dict(\n'
      "      seed=0, suite=dict(kind='datasets', sources=('nothing',)),\n"
      "      backbone=dict(model='lenet_300_100', outputs=10),\n"
      "      phases=dict(a=dict(method='supsup', tasks=(0, 1), steps=1,\n"
      "                         batch_size=2)), schedule=('a',)))\n")
  assert commands.main(['run', f'--config={config}',
                        f'--workdir={tmp_path}/run']) == 1
  assert capsys.readouterr().err.startswith(
      "error: the factory registered as 'nothing' returned a NoneType")


def test_a_report_goes_into_a_file(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  for place in (tmp_path, tmp_path / 'no/x.html'):
    assert commands.main(['report', f'--workdir={folder}',
                          f'--output={place}']) == 1
    assert f'error: {place} is no place for a page: name a file' in (
        capsys.readouterr().err)


@pytest.mark.parametrize('argv, said', [
    (['inspect', '--workdir=run'], 'run is a path from the current folder, '
     'which was removed; change to a folder that exists (cd), or give a whole '
     'path'),
    (['report', '--workdir={}', '--output=a.html'],
     'a.html is a path from the current folder, which was removed'),
    (['predict', '--workdir={}', 'x.npz', '--task=permuted-00'],
     'x.npz is a path from the current folder, which was removed'),
    (['run', '--config=mine.py', '--workdir={}'],
     'mine.py is a path from the current folder, which was removed'),
    (['verify', '--workdir={}', '--plugins=mine.py'],
     'mine.py is a path from the current folder, which was removed'),
    (['sweep', '--config=quickstart', '--workdir={}-sweep'],
     'this command starts in the current folder, which was removed; change to '
     'a folder that exists (cd), and give it again'),
    (['inspect', '--workdir={}'], None)])
def test_a_current_folder_that_is_gone(argv, said, tmp_path, monkeypatch,
                                       capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  (tmp_path / 'gone').mkdir()
  monkeypatch.chdir(tmp_path / 'gone')
  (tmp_path / 'gone').rmdir()
  code = commands.main([word.format(folder) for word in argv])
  err = capsys.readouterr().err
  assert (code, err) == (0, '') if said is None else (
      code == 1 and f'error: {said}' in err), err


@pytest.mark.parametrize('closed', ['>&-', '>&- 2>&-', '<&- >&- 2>&-'])
def test_closed_output_is_no_error(tmp_path, closed):
  """No file that is opened gets its place."""
  done = tiny.call(
      ['sh', '-c', f'exec "$@" {closed}', 'sh', sys.executable, '-c',
       'import os, sys; from mtl_jax import commands\n'
       f"code = commands.main(['verify', '--workdir={tmp_path}/no'])\n"
       f"assert code == 1 and os.open('{__file__}', os.O_RDONLY) > 2\n"
       "assert commands.main(['--version']) == 0"])
  assert done.returncode == 0


def test_the_home_of_nobody_is_a_name(capsys):
  assert commands.main(['verify', '--workdir=~nobody-of-this-name/x']) == 1
  assert '~nobody-of-this-name/x; give the workdir' in capsys.readouterr().err


@pytest.mark.parametrize('code', [0, 1])
def test_a_reader_that_goes_changes_no_code(code, monkeypatch):
  """`| head -1` cuts what is said, and verify still says that it failed."""
  def verify():
    for _ in range(2):
      terminal.print_table(['a'], [['b' * 99]] * 99)
      print('FAULT', file=sys.stderr)
    return code
  read, write = os.pipe()
  os.close(read)
  with (open(write, 'w', encoding='utf-8') as out,
        open(os.dup(write), 'w', 1, encoding='utf-8') as err):
    monkeypatch.setattr(sys, 'stdout', out)
    monkeypatch.setattr(sys, 'stderr', err)
    ends.plain_output()
    assert ends.guarded(verify) == code


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='has no full disk')
def test_output_to_a_full_disk(monkeypatch, capsys):
  with (contextlib.suppress(OSError),
        open('/dev/full', 'w', encoding='utf-8') as full):
    with monkeypatch.context() as patch:
      patch.setattr(sys, 'stdout', full)
      assert commands.main(['--help']) == 1
  assert 'error: standard output: No space left' in capsys.readouterr().err
  with open('/dev/full', 'w', 1, encoding='utf-8') as full:
    monkeypatch.setattr(sys, 'stderr', full)
    ends.plain_output()
    assert ends.guarded(lambda: print('lost', file=sys.stderr)) == 0
