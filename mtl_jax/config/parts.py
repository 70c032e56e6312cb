"""The parts of a config, each a frozen dataclass that checks itself."""

import dataclasses

from mtl_jax import fields
from mtl_jax import models
from mtl_jax.evolution import mutations
from mtl_jax.evolution import networks
from mtl_jax.evolution import spaces
from mtl_jax.inference import identify
from mtl_jax.models import precision
from mtl_jax.models import pretrained
from mtl_jax.parallel import mesh
from mtl_jax.steps import optimizers
from mtl_jax.steps import rounds

MOST = 10_000  # masks of a decision, and passes, of a stream


@dataclasses.dataclass(frozen=True)
class Suite:
  """The tasks of a run; see `mtl_jax.data.suites.make`.

  Attributes:
    kind: kind of the suite.
    options: its options, as sorted (name, value) pairs.
  """
  kind: str
  options: tuple = ()


@dataclasses.dataclass(frozen=True)
class Backbone:
  """The network, and how its immutable weights are made.

  Attributes:
    model: name in `mtl_jax.models.MODELS`.
    outputs: number of logits; at least the number of classes of every task. A
      model with the option `heads` has a head of its own for each task.
    init: 'signed_constant' (SupSup), or 'default' (the module's own);
      applies to leaves that no file fills.
    seed: seed of the weights; `None` takes the run's seed.
    compute_dtype: 'float32', or 'bfloat16' for all that the network computes,
      its logits included. Weights, scores, optimizer and norm statistics stay
      float32, and so do the loss and what `predict` returns.
    remat: for models made of blocks: training stores the input of each block
      and recomputes the values inside it for the gradients. This takes less
      memory and more time; the results are equal up to rounding.
    weights: a file with trained weights: an .npz without pickled objects, a
      .safetensors, or a folder written by Orbax. The workdir keeps a copy of
      the weights.
    names: with `weights`: ordered (pattern, replacement) pairs that map the
      file's names to paths of leaves ('stats/...' for norm statistics). The
      first pattern that matches a whole name decides, and `None` leaves the
      array out. By default, the file must have the paths themselves, the names
      of a Flax checkpoint ('params/...', 'batch_stats/...'), or a published
      form of the model's weights.
    fresh: with `weights`: patterns of the leaves that keep their initial
      values, such as a new head. All others must be in the file.
    options: further options of the model, as (name, value) pairs.
  """
  model: str
  outputs: int
  init: str = 'signed_constant'
  seed: int | None = None
  compute_dtype: str = 'float32'
  remat: bool = False
  weights: str | None = None
  names: tuple | None = None
  fresh: tuple[str, ...] = ()
  options: tuple = ()

  def __post_init__(self):
    precision.check(self.compute_dtype)
    if self.init not in ('signed_constant', 'default'):
      raise ValueError(f'unknown backbone init {self.init!r}; known: '
                       "'signed_constant', 'default'")
    if self.outputs < 1:
      raise ValueError(f'outputs is {self.outputs}; it must be at least 1')
    if self.seed is not None and not 0 <= self.seed < 1 << 32:
      raise ValueError(f'backbone seed is {self.seed}; it must lie between 0 '
                       'and 2 ** 32 - 1')
    for name in ('names', 'fresh'):
      if getattr(self, name) and self.weights is None:
        raise ValueError(f'backbone.{name} says how a file of weights fills '
                         'the leaves; give weights=, or leave it out')
    pretrained.check_names(self.names or ())
    if dict(self.options).get('noise') and (
        self.weights is None or self.names is not None):
      raise ValueError(
          "backbone.options.noise makes modules differ that start from the "
          'same published weights; give weights= in their published form, '
          'without names=, or leave noise out')
    models.check_init(self.model, self.init, dict(self.options))
    made = models.make(self.model, self.outputs, **dict(self.options))
    if self.remat:
      models.recomputing(self.model, made)


@dataclasses.dataclass(frozen=True)
class MeshAxes:
  """The shape of the mesh; the product must be the number of devices.

  Attributes:
    tasks: groups of devices, each with its own tasks.
    data: parts of a batch.
    model: parts of every large array: of backbone, scores, optimizer and
      basis.
  """
  tasks: int = 1
  data: int = 1
  model: int = 1

  def __post_init__(self):
    if min(self.axes()) < 1:
      raise ValueError('mesh: tasks, data and model must be at least 1; got '
                       f'{self}')

  def axes(self) -> mesh.Axes:
    return mesh.Axes(self.tasks, self.data, self.model)


@dataclasses.dataclass(frozen=True)
class Training:
  """How long, and by which optimizer, each task of a phase is trained.

  Attributes:
    steps: batches per task; or give `epochs`.
    epochs: passes over a task's training images; 0 uses `steps`. Each pass is
      shuffled anew and leaves out the images that do not fill a last batch. If
      tasks are trained together, the first task's steps apply to all, and tasks
      with other numbers of images are refused (`batches.check_epochs`).
    Others: as in `optimizers.Recipe`.
  """
  steps: int = 0
  epochs: int = 0
  batch_size: int = 128
  optimizer: str = 'rmsprop'
  learning_rate: float = 1e-4
  schedule: str = 'constant'
  weight_decay: float = 0.
  momentum: float = 0.
  milestones: tuple[float, ...] = ()

  def recipe(self, images: int) -> optimizers.Recipe:
    """The training recipe of a task with `images` training images."""
    given = {f.name: getattr(self, f.name)
             for f in dataclasses.fields(optimizers.Recipe)}
    return optimizers.Recipe(**given | {'steps': self.steps or (
        self.epochs * max(1, images // self.batch_size))})


@dataclasses.dataclass(frozen=True)
class Joint:
  """All tasks of a phase in one state: a step takes a batch of each task."""


@dataclasses.dataclass(frozen=True)
class Stream:
  """A stream of tasks without names (SupSup's NNs); see `training.stream`.

  `steps` or `epochs` say how long the stream stays with a task. A learning
  rate's schedule counts the batches of a mask: after `steps`, 'cosine' is 0.

  Attributes:
    every: batches between two decisions, or fewer: a task's first batch also
      begins with a decision.
    tolerance: a batch belongs to a new task if k max softmax(-gradient) <
      1 + tolerance, where k is the number of masks.
    min_masks: the smallest number of masks among which a decision chooses, at
      most 10,000; fresh masks fill it up.
    budget: the largest number of masks; 0 for no limit.
    passes: how often the stream goes through all tasks, at most 10,000.
    objective: as in `identify.Rule`.
  """
  every: int = 100
  tolerance: float = 0.125
  min_masks: int = 5
  budget: int = 0
  passes: int = 1
  objective: str = 'entropy'

  def __post_init__(self):
    identify.Rule(objective=self.objective)
    if min(self.every, self.passes) < 1 or self.min_masks < 2:
      raise ValueError('stream: every and passes must be at least 1 and '
                       f'min_masks at least 2; got {self}')
    for name in ('min_masks', 'passes'):  # both are listed in memory
      if getattr(self, name) > MOST:
        raise ValueError(f'stream: {name} is {getattr(self, name)}; it must be '
                         f'at most {MOST:,}')
    if self.tolerance <= 0 or self.budget < 0:
      raise ValueError('stream: tolerance must be above 0 and budget not '
                       f'negative; got {self}')


@dataclasses.dataclass(frozen=True)
class Rounds:
  """Tasks that take turns in one state (PaRT); see `mtl_jax.steps.rounds`.

  Attributes:
    set_batches: consecutive batches of a task in a round; 0 for all of them,
      so that the tasks are trained one after another.
    order: order of the tasks in a round: 'drawn' (from the seed) or
      'sequence'.
    moments: 'own' (an optimizer per task) or 'common' (one for each module,
      whichever task trains it).
  """
  set_batches: int = 10
  order: str = 'drawn'
  moments: str = 'own'

  def __post_init__(self):
    if self.set_batches < 0:
      raise ValueError(f'rounds: set_batches is {self.set_batches}; it must '
                       'not be negative')
    for name, known in (('order', rounds.ORDERS),
                        ('moments', rounds.MOMENTS)):
      if getattr(self, name) not in known:
        raise ValueError(f'rounds: {name} is {getattr(self, name)!r}; known: '
                         f'{known}')


@dataclasses.dataclass(frozen=True)
class Search:
  """mu2Net's evolutionary search for the path of every task.

  See `mtl_jax.training.search.iteration`.

  Attributes:
    space: name in `mtl_jax.evolution.spaces.SPACES`.
    fixed: (hyper-parameter, value or values) pairs that replace the space's
      ranges; see `mtl_jax.evolution.spaces.Space.replace`.
    iterations: passes over the phase's tasks.
    generations: generations per task and iteration.
    children: children per generation.
    validations: number of validations of a child; its best one counts.
    train_cap: largest number of images between two validations, at most a pass
      over the task's; the phase may give a number of batches, `steps`, instead.
    valid_cap: largest number of validation images.
    private: tasks whose paths may not be parents of other tasks' paths.
    control: a fixed way to train from the root, for comparison: 'finetune',
      'head' or 'adapters'. Generations are then repeats, of which the best
      is kept.
    scale_size, scale_weights, scale_compute, scale_flops: as in
      `mtl_jax.evolution.networks.Scale`.
    at_once: children that are trained at once on a device; 0 means one on a
      CPU, and on an accelerator as many of a generation as fit into memory.
  """
  space: str = 'mu2net_ti0'
  fixed: tuple = ()
  iterations: int = 1
  generations: int = 4
  children: int = 8
  validations: int = 4
  train_cap: int = 51_200
  valid_cap: int = 5_120
  private: tuple[str, ...] = ()
  control: str | None = None
  scale_size: float = 1.
  scale_weights: float = 1_484_162.
  scale_compute: float = 1.
  scale_flops: float = 15e6
  at_once: int = 0

  def __post_init__(self):
    if isinstance(self.private, str):
      object.__setattr__(self, 'private', (self.private,))
    if not isinstance(self.fixed, tuple) or not all(
        isinstance(pair, tuple) and len(pair) == 2
        and isinstance(pair[0], str) for pair in self.fixed):
      raise ValueError(f'search: fixed is {self.fixed!r}; give a dict of a '
                       'value, or a tuple of values, by hyper-parameter')
    self._require_effect(self.make_space())
    self.make_scale()
    for name in ('iterations', 'generations', 'children', 'validations',
                 'train_cap', 'valid_cap'):
      if getattr(self, name) < 1:
        raise ValueError(f'search: {name} is {getattr(self, name)}; it must be '
                         'at least 1')
    if self.at_once < 0:
      raise ValueError(f'search: at_once is {self.at_once}; 0 chooses')
    known = (None, *mutations.CONTROLS)
    if self.control not in known:
      raise ValueError(f'search: control is {self.control!r}; known: {known}')
    if self.control and self.iterations > 1:
      raise ValueError('search: a control starts from the root every time; its '
                       'repeats are generations, and iterations is 1')

  def _require_effect(self, space: spaces.Space) -> None:
    """Refuses options that another one leaves without effect."""
    if 'adapter' in dict(self.fixed) and not (
        space.insert_adapters or self.control == 'adapters'):
      raise ValueError('search: fixed gives adapter, and the space '
                       f'{self.space} inserts no adapters; leave it out, or '
                       'take another space')
    for base, unit in (('scale_size', 'scale_weights'),
                       ('scale_compute', 'scale_flops')):
      if getattr(self, base) == 1 and fields.changed(self, unit):
        raise ValueError(f'search: {unit} is {getattr(self, unit)}, and with '
                         f'{base}=1 cost does not lower the score; give '
                         f'{base} below 1, or leave {unit} out')

  def make_space(self) -> spaces.Space:
    return spaces.make(self.space, self.fixed)

  def make_scale(self) -> networks.Scale:
    return networks.Scale(self.scale_size, self.scale_weights,
                          self.scale_compute, self.scale_flops)


@dataclasses.dataclass(frozen=True)
class Scenario:
  """One evaluation with inferred tasks.

  Attributes:
    name: its name in the results.
    phases: phases whose tasks take part; empty for all except baselines.
    rule, objective, normalise, rerank: as in `identify.Rule`.
    images_per_inference: number of images, the first of a test batch, from
      which its task is inferred.
    batch_size: images per test batch; each batch has one inference. A task's
      last batch may have fewer.
    batches_per_task: largest number of test batches, drawn at random for every
      task; 0 uses all test images.
    task_counts: numbers of tasks, one evaluation each: a number n takes
      candidates and test data from the first n tasks, or from all if there are
      fewer. Empty takes all tasks.
  """
  name: str
  phases: tuple[str, ...] = ()
  rule: str = 'one_shot'
  objective: str = 'entropy'
  normalise: bool = False
  rerank: int = 0
  images_per_inference: int = 1
  batch_size: int = 128
  batches_per_task: int = 0
  task_counts: tuple[int, ...] = ()

  def __post_init__(self):
    self.make_rule()
    if not 1 <= self.images_per_inference <= self.batch_size:
      raise ValueError(
          f'identify.{self.name}: images_per_inference is '
          f'{self.images_per_inference}; it must lie between 1 and '
          f'batch_size, {self.batch_size}')
    if self.batches_per_task < 0 or any(n < 2 for n in self.task_counts):
      raise ValueError(
          f'identify.{self.name}: batches_per_task must not be negative and '
          'every number in task_counts must be at least 2; got '
          f'{self.batches_per_task} and {self.task_counts}')

  def make_rule(self) -> identify.Rule:
    return identify.Rule(self.rule, self.objective, self.normalise,
                         self.rerank)


# The ways of training other than one task after another, by their field.
DRIVERS: dict[str, type] = {'rounds': Rounds, 'stream': Stream,
                            'search': Search}
