"""Runs the jobs of a sweep on this machine, on Ray, or by SLURM.

An engine is a generator: it takes jobs and yields each one with its exit code
(or the reason why it has none) as it ends. Ray and SLURM decide where and when
a run starts; on this machine, a pool of threads waits for processes.
"""

import contextlib
import importlib
import os
import pathlib
import subprocess
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent import futures
from typing import Any, NamedTuple


# Jobs with their exit codes, or the reasons why they have none.
Ended = Generator[tuple['Job', int | str], None, None]


class Job(NamedTuple):
  """One run of a sweep.

  Attributes:
    name: name of its folder.
    setting: its name without the seed.
    words: its command line.
    workdir: the folder or address of its workdir.
    log: file for its output.
  """
  name: str
  setting: str
  words: tuple[str, ...]
  workdir: str
  log: pathlib.Path


class Options(NamedTuple):
  """The options of an engine.

  Attributes:
    jobs: largest number of runs at once; `None` for one on this machine, and
      for as many as there are resources on Ray and SLURM.
    cpus: cores of a run, for Ray and SLURM.
    gpus: GPUs of a run, for Ray and SLURM.
    slurm: parameters of submitit, such as {'slurm_partition': 'gpu'}.
    folder: folder of the sweep.
  """
  jobs: int | None
  cpus: int
  gpus: int
  slurm: dict[str, Any]
  folder: pathlib.Path


def process(words: Sequence[str], folder: str, log: str,
            watch: Callable[[subprocess.Popen], Any] = lambda _: None) -> int:
  """Runs one command to its end; an interruption also stops the command.

  Args:
    words: the command line.
    folder: its working directory.
    log: a file to which its output is appended.
    watch: called with the process.

  Returns:
    Its exit code.
  """
  os.makedirs(os.path.dirname(log), exist_ok=True)  # on another machine
  with open(log, 'a', encoding='utf-8') as said:
    # In its own session: Ctrl-C reaches it only once, as SIGTERM from here.
    child = subprocess.Popen(words, cwd=folder, stdout=said,
                             stderr=subprocess.STDOUT, start_new_session=True)
    try:
      watch(child)
      return child.wait()
    except BaseException:
      child.terminate()
      child.wait()
      raise


def local(todo: Sequence[Job], options: Options) -> Ended:
  """Runs jobs as processes of this machine."""
  children: list[subprocess.Popen] = []
  ending, lock = threading.Event(), threading.Lock()

  def watch(child):
    with lock:
      children.append(child)
      if ending.is_set():
        child.terminate()
  with futures.ThreadPoolExecutor(options.jobs or 1) as pool:
    handed = {pool.submit(process, job.words, os.getcwd(), str(job.log),
                          watch): job for job in todo}
    try:
      for done in futures.as_completed(handed):
        yield handed[done], done.result()
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      with lock:
        ending.set()
        for child in children:
          child.terminate()
      raise


def ray(todo: Sequence[Job], options: Options) -> Ended:
  """Runs jobs as tasks of Ray, on the cluster of RAY_ADDRESS or locally."""
  engine = _required('ray', 'ray')
  engine.init(log_to_driver=False, ignore_reinit_error=True)
  remote = engine.remote(process).options(
      num_cpus=options.cpus, num_gpus=options.gpus, max_retries=0)
  waiting = list(todo)
  running: dict[Any, Job] = {}
  try:
    while waiting or running:
      while waiting and len(running) < (options.jobs or len(todo)):
        job = waiting.pop(0)
        running[remote.remote(job.words, os.getcwd(), str(job.log))] = job
      (done,), _ = engine.wait(list(running), num_returns=1)
      job = running.pop(done)
      try:
        yield job, engine.get(done)
      except engine.exceptions.RayError as error:
        yield job, _brief(error)
  finally:
    for left in running:
      engine.cancel(left)
    if running:
      with contextlib.suppress(engine.exceptions.RayError):
        engine.wait(list(running), num_returns=len(running), timeout=60)
    engine.shutdown()


def slurm(todo: Sequence[Job], options: Options,
          cluster: str = 'slurm') -> Ended:
  """Runs jobs as one job array of SLURM, which continues if this is stopped.

  Args:
    todo: the jobs.
    options: see `Options`.
    cluster: submitit's cluster; 'local' uses processes of this machine.
  """
  engine = _required('submitit', 'slurm')
  try:
    executor = engine.AutoExecutor(options.folder / 'slurm', cluster=cluster)
  except RuntimeError as error:
    raise ValueError(
        f'--engine=slurm: {_brief(error)}. Start the sweep where sbatch and '
        'srun are, or give --engine=local') from error
  try:
    executor.update_parameters(
        name='mtl_jax', cpus_per_task=options.cpus,
        gpus_per_node=options.gpus,
        **({'slurm_array_parallelism': options.jobs} if options.jobs else {}),
        **options.slurm)
  except (NameError, TypeError, ValueError) as error:
    raise ValueError(f'--slurm: submitit refuses it: {_brief(error)}') from (
        error)
  with executor.batch():
    handed = [(executor.submit(process, job.words, os.getcwd(), str(job.log)),
               job) for job in todo]
  jobs = dict(handed)
  for done in engine.helpers.as_completed(list(jobs), poll_frequency=1):
    failed = done.exception()
    yield jobs[done], done.result() if failed is None else _brief(failed)


ENGINES: dict[str, Callable[..., Ended]] = {
    'local': local, 'ray': ray, 'slurm': slurm}


def _required(package: str, extra: str):
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise ValueError(
        f'--engine={extra} needs the package {package}, which is not '
        f"installed; install it: pip install '{package}' (or the extra: pip "
        f"install '.[{extra}]'), or give --engine=local") from error


def _brief(error: BaseException) -> str:
  """The line that names the error: the last one with an error, or the first.

  >>> _brief(ValueError('failed with trace:\\nKeyError: x\\nlogs: y'))
  'KeyError: x'
  """
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  said = [line for line in lines if 'Error' in line]
  return [type(error).__name__, *lines[:1], *said][-1].rstrip('.')
