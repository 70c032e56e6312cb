"""What is installed: the configs by name, the console script, the report."""

import os
import subprocess
import sys
import zipfile

import pytest
import tiny

pytest.importorskip('build')
pytest.importorskip('setuptools', '77')


def call(*words, cwd):
  """A command outside of this checkout, without its package."""
  env = {k: v for k, v in tiny.environment().items() if k != 'PYTHONPATH'}
  done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, text=True,
                        capture_output=True, check=False)
  assert done.returncode == 0, done.stderr + done.stdout
  return done.stdout


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment(tmp_path):
  """Its dependencies are those of this process: nothing is downloaded."""
  source = tmp_path / 'source'
  source.mkdir()
  for name in ('mtl_jax', 'configs', 'setup.py', 'setup.cfg', 'pyproject.toml',
               'README.md', 'LICENSE'):
    os.symlink(tiny.ROOT / name, source / name)
  call(sys.executable, '-m', 'build', '--wheel', '--no-isolation',
       '--skip-dependency-check', f'--outdir={tmp_path}', source, cwd=tmp_path)
  wheel, = tmp_path.glob('*.whl')
  names = zipfile.ZipFile(wheel).namelist()
  shipped = {p.name for p in (tiny.ROOT / 'configs').glob('*.py')}
  assert {n.removeprefix('mtl_jax/configs/') for n in names
          if n.startswith('mtl_jax/configs/')} == shipped
  assert not any(n.startswith(('configs/', 'tests/')) for n in names)
  assert {'mtl_jax/py.typed', 'mtl_jax/report/templates/report.html.j2',
          'mtl_jax/commands/run.py', 'mtl_jax/__main__.py'} <= set(names)
  call(sys.executable, '-m', 'venv', tmp_path / 'venv', cwd=tmp_path)
  python = tmp_path / 'venv/bin/python'
  site = call(python, '-c', 'import site; print(site.getsitepackages()[0])',
              cwd=tmp_path).strip()
  for name in ('here.pth',):
    with open(os.path.join(site, name), 'w', encoding='utf-8') as file:
      file.write('\n'.join(p for p in sys.path if 'site-packages' in p))
  # This process may have the package installed, too.
  call(python, '-m', 'pip', 'install', '--no-deps', '--ignore-installed', wheel,
       cwd=tmp_path)
  script = tmp_path / 'venv/bin/mtl-jax'
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  listed = call(script, '--list_configs', cwd=elsewhere)
  assert len(listed.splitlines()) == len(shipped)
  small = [f'--config.phases.{name}.steps=8'
           for name in ('basis', 'impress', 'dedicated')]
  said = call(script, 'run', '--config=quickstart', '--workdir=run', *small,
              '--config.matrix=final', '--config.identify=None',
              cwd=elsewhere)
  assert f'report: {elsewhere}/run/report.html' in said
  assert '30 tasks verified' in call(script, 'verify', '--workdir=run',
                                     cwd=elsewhere)
  assert 'mtl-jax run' in (elsewhere / 'run/metrics.jsonl').read_text()
