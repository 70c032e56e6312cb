"""Exports a task as one file, and imports it into another workdir.

    system.export('permuted-03', 'permuted-03.safetensors')
    mtl_jax.import_task('elsewhere', 'permuted-03.safetensors')
    mtl_jax.load('permuted-03.safetensors').predict(x)

The file is a safetensors file. Its header holds everything but arrays: the
recipe of the backbone and its fingerprint, the method and its options,
transforms, class names, record, versions, licence and free text. Packed masks
take n / 8 bytes; the rest of a mask's file is below 8 kB. Values that other
tasks of the workdir store are written into the file. A task that needs other
tasks (the masks of its basis) names them; `with_basis` includes them.

The file holds no image of the data: the outputs that prove a task are those on
inputs drawn from a seed (see `probes`).
"""

import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import aliases
from mtl_jax import messages
from mtl_jax.models import pretrained
from mtl_jax.serving import artifact_checks
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import checks
from mtl_jax.serving import probes
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import deduplicate
from mtl_jax.storage import json_records
from mtl_jax.storage import provenance
from mtl_jax.storage import removal
from mtl_jax.storage import tensor_file
from mtl_jax.storage import workdir as workdir_lib

# Metadata of a checkpoint that an import replaces.
_OF_PLACE = (*checkpoint.OWN, 'references', 'relies_on', 'kept_by')


class Part(NamedTuple):
  """One task of a file.

  Attributes:
    arrays: as in a checkpoint, including values that other tasks store.
    metadata: as in a checkpoint, but without `_OF_PLACE`.
    needs: [name, content] of the tasks that it relies on, in order (see
      `deduplicate.content`); `None` if its method needs no others.
  """
  arrays: dict[str, np.ndarray]
  metadata: dict
  needs: list | None


class Artifact(NamedTuple):
  """The content of a file.

  Attributes:
    task: name of the exported task.
    parts: tasks by name; tasks on which others rely come first.
    backbone: recipe with its fingerprint.
    licence: licence of the task, as given by its author.
    text: free text of its author.
    versions: versions with which it was exported.
  """
  task: str
  parts: dict[str, Part]
  backbone: dict
  licence: str
  text: str
  versions: dict


def export(system: system_lib.System, task: str, path: aliases.Path,
           with_basis: bool = False, licence: str = '',
           text: str = '') -> aliases.Path:
  """Writes a task as one file.

  Args:
    system: from `mtl_jax.load`.
    task: a name in `system.tasks`.
    path: of the file, or its address; an existing file is replaced.
    with_basis: whether to include the tasks on which it relies, such as masks
      that it combines. Otherwise a workdir that imports it must hold them.
    licence: licence of the task.
    text: free text for its users.

  Returns:
    The path.

  Raises:
    ValueError: the task is unknown or damaged, a text is none, or the path
      can't be a file.
  """
  said = tensor_file.texts(licence=licence, text=text)
  messages.check_switch(with_basis, 'with_basis')
  names = [*relied(system, task), task] if with_basis else [task]
  parts = {name: _part(system, name) for name in names}
  arrays = {f'{name}/{leaf}': array for name, part in parts.items()
            for leaf, array in part.arrays.items()}
  own = parts[task].metadata
  return tensor_file.write(path, arrays, {
      'format': tensor_file.FORMAT, 'task': task, 'backbone': _recipe(system),
      'parts': {name: {'metadata': part.metadata, 'needs': part.needs}
                for name, part in parts.items()},
      'licence': said['licence'] or own.get('licence', ''),
      'text': said['text'] or own.get('text', ''),
      'versions': provenance.versions()})


def export_network(system: system_lib.System, task: str, path: aliases.Path,
                   licence: str = '', text: str = '') -> aliases.Path:
  """Writes a task's whole network as a file of weights, for `backbone.weights`.

  Its arrays have the paths of the network's leaves, and 'stats/' before those
  of norm statistics. The task's transforms, classes and method are not written.

  Args:
    system: from `mtl_jax.load`.
    task: a name in `system.tasks`.
    path: of the file, `NAME.safetensors`; an existing one is replaced.
    licence: licence of the weights.
    text: free text for their users.

  Returns:
    The path.

  Raises:
    ValueError: as in `export`, or the path has another suffix.
  """
  if not isinstance(path, (str, os.PathLike)) or (
      pathlib.Path(path).suffix != '.safetensors'):
    raise ValueError(f'{path} does not end with .safetensors, by which '
                     'backbone.weights knows the form; give such a name')
  said = tensor_file.texts(licence=licence, text=text)
  params, stats = system.effective(system.task(task))
  return tensor_file.write(path, pretrained.leaves(params, stats), {
      'format': tensor_file.FORMAT, 'network': task,
      'backbone': _recipe(system), **said, 'versions': provenance.versions()})


def relied(system: system_lib.System, task: str) -> list[str]:
  """The tasks that a task needs, directly or not; needed tasks come first."""
  found: dict[str, None] = {}

  def visit(name: str) -> None:
    for other in system.metadata(name).get('relies_on') or {}:
      if other not in found:
        visit(other)
        found[other] = None
  visit(task)
  return list(found)


def _part(system: system_lib.System, name: str) -> Part:
  """A task of a workdir in the form for a file."""
  stored = system.task(name)
  arrays = checkpoint.load(system.workdir.task(name))[0]
  arrays = deduplicate.resolve(system.workdir, arrays, stored.metadata)
  metadata = {key: value for key, value in stored.metadata.items()
              if key not in _OF_PLACE}
  metadata['drawn_probe'] = metadata.get('drawn_probe') or probes.describe(
      system.workdir, system.probe, metadata)
  arrays['probe'] = np.asarray(system.outputs(
      stored, probes.draw(metadata['drawn_probe'], metadata)))
  metadata['versions'] = provenance.versions()
  needs = stored.metadata.get('relies_on')
  if needs is not None:
    needs = [[other, deduplicate.content(system.workdir.task(other))]
             for other in needs]
  return Part(arrays, metadata, needs)


def _recipe(system: system_lib.System) -> dict:
  """The recipe of the backbone; keeps only the name of a file of weights."""
  recipe = dict(system.backbone.recipe)
  if recipe.get('weights'):
    recipe['weights'] = pathlib.Path(recipe['weights']).name
  return recipe


def read(path: aliases.Path) -> Artifact:
  """Reads and checks a file; executes nothing in it.

  Raises:
    CheckpointError: the file is missing, damaged, of another kind or of another
      format.
  """
  arrays, header = tensor_file.read(path)
  tensor_file.require_format(path, header)
  artifact_checks.refuse_network(path, header)
  try:
    return _artifact(arrays, header)
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise tensor_file.FileError(
        f'{path} does not hold a task as mtl_jax writes it '
        f'({type(error).__name__}: {error}); export it again') from error


def _artifact(arrays: dict, header: dict) -> Artifact:
  backbone_lib.check_recipe(header['backbone'])
  parts = {}
  for name, given in header['parts'].items():
    metadata, needs = given['metadata'], given['needs']
    for called in (name, *dict(needs or ())):
      if not (re.fullmatch(workdir_lib.NAME, called)
              and removal.is_final(called)):
        raise ValueError(f'{called!r} is no name of a task')
    artifact_checks.check_task(name, metadata)
    if metadata['backbone'] != header['backbone']['fingerprint']:
      raise ValueError(f'task {name} is of another backbone')
    parts[name] = Part({
        leaf.removeprefix(f'{name}/'): array for leaf, array in arrays.items()
        if leaf.startswith(f'{name}/')}, metadata, needs)
    if 'probe' not in parts[name].arrays:
      raise ValueError(f'task {name} lacks its outputs')
  if header['task'] not in parts:
    raise ValueError(f'task {header["task"]} is not in it')
  return Artifact(header['task'], parts, header['backbone'],
                  str(header['licence']), str(header['text']),
                  header['versions'])


def import_task(workdir: aliases.Path, path: aliases.Path,
                name: str | None = None) -> str:
  """Imports the task of a file into a workdir; other tasks are not changed.

  Args:
    workdir: workdir of a run on the same backbone; or a new folder, if the
      backbone is drawn from a seed.
    path: path of a file that `export` wrote.
    name: its new name; `None` keeps its own.

  Returns:
    The name. A task that is already there with equal bits is not written again.

  Raises:
    ValueError: the file can't be trusted, the workdir has another backbone or
      another task of that name, or lacks a needed one. Nothing is changed.
  """
  found = read(path)
  work = workdir_lib.Workdir(workdir)
  work.read(required=False)
  checks.require_new_name(work, found.task if name is None else name,
                          found.parts[found.task].metadata)
  _check_backbone(work, found.backbone, path)
  with work.locked():
    _check_backbone(work, found.backbone, path)  # it may have got one meanwhile
    places = _places(work, found, name, path)
    work.prepare()
    if not work.backbone.exists():
      json_records.write_json(work.backbone, found.backbone)
    for own, part in found.parts.items():
      _store(work, part, places, found if own == found.task else None)
  return places[found.task]


def unpack(root: aliases.Path, path: aliases.Path) -> None:
  """Makes a workdir from a file alone, in a new folder.

  Raises:
    ValueError: as in `import_task`, or a task that this one needs is missing.
  """
  found = read(path)
  lacking = {needed: digest for part in found.parts.values()
             for needed, digest in part.needs or ()
             if needed not in found.parts}
  if lacking:
    raise ValueError(_alone(found, lacking, path))
  import_task(root, path)


def _alone(found: Artifact, lacking: dict[str, str],
           path: aliases.Path) -> str:
  """Says what a file lacks to be used by itself, and where to find it."""
  metadata = found.parts[found.task].metadata
  named = [f'{name} ({digest})' for name, digest in lacking.items()]
  return (f'{path} holds the task {found.task} without '
          f'{checks.needed(metadata, named)}. Export it with with_basis=True '
          '(--with_basis) from the workdir where it was learned (suite '
          f'{metadata.get("suite")}), or import it into a workdir that holds '
          f'{"that task" if len(named) == 1 else "those tasks"}')


def _check_backbone(work: workdir_lib.Workdir, recipe: dict,
                    path: aliases.Path) -> None:
  """Refuses a workdir with another backbone than the task's."""
  work.require_own()
  if work.backbone.exists():
    kept = dict(json_records.read_json(work.backbone) or {})
    if kept.get('fingerprint') != recipe['fingerprint']:
      raise ValueError(
          f'{path} was made on the backbone {recipe["fingerprint"][:16]} '
          f'({recipe["model"]}), but {work.root} has '
          f'{str(kept.get("fingerprint"))[:16]} ({kept.get("model")}): its '
          'impression does not fit; choose another workdir')
    return
  if recipe.get('weights'):
    raise ValueError(
        f'{path} was made on the weights {recipe["weights"]}, which '
        'it does not hold; import it into the workdir of a run on them')


def _places(work: workdir_lib.Workdir, found: Artifact, name: str | None,
            path: aliases.Path) -> dict[str, str]:
  """The name in the workdir of each part, and of each needed task.

  Raises:
    ValueError: a name belongs to another task, or a needed task is missing.
  """
  here = {deduplicate.content(work.task(other)): other
          for other in reversed(work.task_names())}
  places: dict[str, str] = {}
  for own, part in found.parts.items():
    for needed, digest in part.needs or ():
      if needed in places:
        continue
      if digest not in here:
        raise ValueError(
            f'task {own} needs the task {needed} ({digest}), which is neither '
            f'in {path} nor in {work.root}; import that first, or export '
            f'{found.task} with with_basis=True (--with_basis)')
      places[needed] = here[digest]
    wanted = name if own == found.task and name else own
    digest = deduplicate.content_of(part.arrays, part.metadata)
    if wanted in [places.get(other) for other in found.parts]:
      raise ValueError(f'{found.task} cannot be called {wanted}, which is a '
                       'task that it relies on; give another name')
    if deduplicate.content_at(work, wanted) == digest:
      places[own] = wanted
    elif own != found.task and digest in here:
      places[own] = here[digest]
    elif checkpoint.exists(work.task(wanted)):
      raise ValueError(
          f'{work.root} has another task {wanted}, which stays; give this one '
          'another name (name=, --name), or rename the other' if
          own == found.task else
          f'{work.root} has another task {wanted} than the one that '
          f'{found.task} relies on; rename it')
    else:
      places[own] = wanted
  return places


def _store(work: workdir_lib.Workdir, part: Part, places: dict[str, str],
           whole: Artifact | None) -> None:
  """Writes one part under its new name, unless it is already there."""
  name = places[part.metadata['name']]
  if checkpoint.exists(work.task(name)):
    return
  metadata = renamed(part.metadata, name) | {'kept_by': None, 'references': {}}
  if part.needs is not None:
    metadata['relies_on'] = {
        places[other]: deduplicate.fingerprint(work.task(places[other]))
        for other, _ in part.needs}
  if whole is not None:
    metadata |= {'licence': whole.licence, 'text': whole.text}
  record = metadata['record']  # values of other tasks are this one's now
  record['bytes'] = deduplicate.stored_sizes(record['bytes'], part.arrays)
  checkpoint.save(work.task(name), part.arrays, metadata)
  json_records.append_line(work.metrics, {
      'kind': 'imported', 'entry': name, 'versions': provenance.versions()})


def renamed(metadata: dict, name: str) -> dict[str, Any]:
  """A task's metadata under another name."""
  return metadata | {'name': name,
                     'record': metadata['record'] | {'entry': name}}
