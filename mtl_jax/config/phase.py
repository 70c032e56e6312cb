"""A phase of a run: one method on a range of tasks, and how it is trained."""

import dataclasses
import re

from mtl_jax import methods
from mtl_jax.config import parts as config_parts
from mtl_jax.steps import single


@dataclasses.dataclass(frozen=True)
class Phase:
  """One method on a range of the suite's tasks.

  Attributes:
    name: also the suffix of its entries if it is a control.
    method: name in `mtl_jax.methods.METHODS`.
    tasks: (first, last + 1) of the suite's tasks.
    steps: batches per task; or give `epochs`.
    epochs: passes over a task's training images; 0 takes `steps`. Of tasks
      trained together the first one's count for all, and tasks with other
      numbers of images are refused (`batches.check_epochs`).
    repeats: impressions per task, each with a seed of its own.
    control: kept for comparison beside another phase on the same tasks.
    tasks_at_once: tasks trained together in one compiled call.
    basis: ImpressLearn's masks.
    pool: one impression for all the phase's tasks together, trained on their
      pooled images; at test no task need be named.
    together: 'joint' trains all the phase's tasks in one state: a step takes
      a batch of each and sums their losses. In 'rounds' they take turns.
      `None` trains them apart.
    rounds: of together='rounds'.
    after: an earlier phase whose tasks' modules, and those of the phases that
      it came after itself, are reused, and frozen.
    loss: of classifications: 'softmax' over all outputs of the network, or
      'classes' over the task's own alone.
    allocation: which weights each task owns; of the method `subnetworks`.
    early_stop: ends a task's training; `epochs` are then the most it gets.
    sparsify: prunes a subnetwork during training; needs `early_stop`.
    stream: if given, the tasks' names and borders are kept from the learner.
    search: if given (munet, and it alone), evolution finds each task's path;
      `steps` are then those between two validations, and the search space
      has what else the optimizer needs.
    options: of the method, as (name, value) pairs.
    Others: as in `steps_lib.Recipe`.
  """
  name: str
  method: str
  tasks: tuple[int, int]
  steps: int = 0
  epochs: int = 0
  batch_size: int = 128
  optimizer: str = 'rmsprop'
  learning_rate: float = 1e-4
  schedule: str = 'constant'
  weight_decay: float = 0.
  momentum: float = 0.
  milestones: tuple[float, ...] = ()
  repeats: int = 1
  control: bool = False
  tasks_at_once: int = 1
  basis: config_parts.Basis | None = None
  stream: config_parts.Stream | None = None
  search: config_parts.Search | None = None
  pool: bool = False
  together: str | None = None
  rounds: config_parts.Rounds | None = None
  after: str | None = None
  loss: str = 'softmax'
  allocation: config_parts.Allocation | None = None
  early_stop: config_parts.EarlyStop | None = None
  sparsify: config_parts.Sparsify | None = None
  options: tuple = ()

  def __post_init__(self):
    if not re.fullmatch(r'\w[\w.-]*', self.name):
      raise ValueError(f'phase {self.name!r}: a name has letters, digits, _, . '
                       'and -, as it becomes a part of file names')
    self._check_search()
    if self.search is None and bool(self.steps) == bool(self.epochs):
      raise ValueError(f'phase {self.name}: give either steps or epochs; got '
                       f'steps={self.steps}, epochs={self.epochs}')
    if not (isinstance(self.tasks, tuple) and len(self.tasks) == 2
            and 0 <= self.tasks[0] < self.tasks[1]):
      raise ValueError(f'phase {self.name}: tasks {self.tasks} is not a range '
                       '(first, last + 1)')
    if self.tasks_at_once < 1 or self.repeats < 1:
      raise ValueError(f'phase {self.name}: tasks_at_once and repeats must be '
                       'at least 1')
    if (self.method == 'impresslearn') != (self.basis is not None):
      raise ValueError(f'phase {self.name}: impresslearn, and it alone, needs '
                       'a basis (kind, size, phase)')
    self._check_subnetworks()
    if self.early_stop is not None and (
        not self.epochs or self.tasks_at_once > 1 or self.stream is not None
        or self.rounds is not None):
      raise ValueError(f'phase {self.name}: early_stop counts epochs of one '
                       'state: give epochs, and no tasks_at_once, stream or '
                       'rounds')
    if dict(self.options).get('carry') and (
        self.together or self.tasks_at_once > 1 or self.repeats > 1):
      raise ValueError(f'phase {self.name}: carry goes from task to task; it '
                       'takes neither together, tasks_at_once nor repeats')
    if self.method == 'joint' and not (
        self.together or self.pool or dict(self.options).get('carry')):
      raise ValueError(f'phase {self.name}: joint without together would train '
                       "a network for each task; give together='joint' or "
                       'options.carry, or take the method dedicated')
    if dict(self.options).get('transfer') and self.tasks_at_once > 1:
      raise ValueError(f'phase {self.name}: transfer starts a task at the mean '
                       'of the earlier ones; it needs tasks_at_once=1')
    if self.pool and (self.stream is not None or self.tasks_at_once > 1):
      raise ValueError(f'phase {self.name}: a pool leaves one impression; it '
                       'takes neither stream nor tasks_at_once')
    for name, known in (('together', (None, 'joint', 'rounds')),
                        ('loss', ('softmax', 'classes'))):
      if getattr(self, name) not in known:
        raise ValueError(f'phase {self.name}: {name} is '
                         f'{getattr(self, name)!r}; known: {known}')
    if self.together and (self.pool or self.stream is not None
                          or self.tasks_at_once > 1):
      raise ValueError(f'phase {self.name}: tasks that are trained together '
                       'take neither pool, stream nor tasks_at_once')
    if self.stream is not None and (
        self.method != 'supsup' or self.tasks_at_once > 1 or self.repeats > 1
        or dict(self.options).get('transfer')):
      raise ValueError(f'phase {self.name}: a stream is learned by supsup, one '
                       'mask at a time: no tasks_at_once, repeats or transfer')
    single.make_optimizer(self.recipe(1))
    method = self.make_method()
    if (self.together == 'rounds') != (self.rounds is not None):
      raise ValueError(f"phase {self.name}: together='rounds', and it alone, "
                       'needs rounds (set_batches, order, moments)')
    if self.together == 'joint' and not (method.traced_member
                                         or method.banks):
      raise ValueError(f'phase {self.name}: {self.method} knows no members, so '
                       'that tasks trained together would all be one; leave '
                       'out together, or take the method joint')
    if self.after is not None and method.rebuild is None:
      raise ValueError(f'phase {self.name}: the method {self.method} reuses '
                       'nothing of an earlier phase; leave out after')
    if self.rounds is not None and method.banks is None:
      raise ValueError(f'phase {self.name}: the method {self.method} cannot '
                       'train in rounds; part can')
    if method.banks is not None and (self.weight_decay or self.together is None
                                     or self.loss != 'classes'):
      raise ValueError(f"phase {self.name}: {self.method} needs together="
                       "'rounds' or 'joint', loss='classes' and no weight "
                       'decay, which would change modules off the path')
    if method.banks is not None and self.together == 'joint' and (
        method.banks.shared_stats):
      raise ValueError(f"phase {self.name}: norm='shared' depends on the order "
                       "of the tasks; it needs together='rounds'")

  def _check_subnetworks(self):
    given = self.allocation
    if (self.method == 'subnetworks') != (given is not None):
      raise ValueError(f'phase {self.name}: subnetworks, and they alone, need '
                       'an allocation (density, ...)')
    if self.sparsify is not None and (
        given is None or self.early_stop is None or self.together
        or given.scope != 'leaf' or self.sparsify.start != given.density):
      raise ValueError(f'phase {self.name}: sparsify prunes one subnetwork at '
                       'a time, every leaf alike, from the density of its '
                       "allocation; it needs early_stop and scope='leaf'")
    if given is None:
      return
    if self.tasks_at_once > 1:
      raise ValueError(f'phase {self.name}: subnetworks of one tree know of '
                       "each other; train them with together='joint', not "
                       'tasks_at_once')
    sharing = dict(self.options).get('sharing')
    if self.together and (sharing or given.tree is None):
      raise ValueError(
          f'phase {self.name}: together trains subnetworks of one tree that '
          'use no weights of each other; leave out sharing, and give a tree')
    if sharing and given.tree is None:
      raise ValueError(f'phase {self.name}: sharing uses the weights of '
                       'earlier tasks of a tree; give allocation.tree')

  def _check_search(self):
    if (self.method == 'munet') != (self.search is not None):
      raise ValueError(f'phase {self.name}: munet, and it alone, needs a '
                       'search (space, generations, children, ...)')
    if self.search is None:
      return
    if bool(self.search.control) != self.control:
      raise ValueError(f'phase {self.name}: a search with a control is a phase '
                       'with control=True, and the other way round')
    taken = [name for name in (
        'epochs', 'optimizer', 'learning_rate', 'schedule', 'weight_decay',
        'momentum', 'repeats', 'tasks_at_once', 'basis', 'stream', 'pool',
        'together', 'rounds', 'after', 'loss', 'options')
             if getattr(self, name) != DEFAULTS[name]]
    if taken:
      raise ValueError(f'phase {self.name}: a search takes no {taken[0]}; the '
                       'search space has the optimizer, and generations and '
                       'children say how long it goes on')

  def round_steps(self, images: int) -> int:
    """Steps between two validations of a search's children."""
    assert self.search is not None
    return self.steps or -(-min(images, self.search.train_cap)
                           // self.batch_size)

  def recipe(self, images: int) -> single.Recipe:
    """How a task of `images` training images is trained.

    Of a search: the steps of all children of one task iteration.
    """
    fields = {f.name: getattr(self, f.name)
              for f in dataclasses.fields(single.Recipe)}
    if self.search is not None:
      found = self.search
      fields |= {'optimizer': 'sgd', 'steps': (
          found.generations * found.children * found.validations
          * self.round_steps(images))}
      return single.Recipe(**fields)
    fields['steps'] = self.steps or self.epochs * max(
        1, images // self.batch_size)
    return single.Recipe(**fields)

  @property
  def order_name(self) -> str:
    """What names the order of batches: equal in phases on the same tasks."""
    return f'rounds/{self.tasks}'

  def make_method(self) -> methods.Method:
    return methods.make(self.method, **dict(self.options))


# The value of each field that a config leaves out.
DEFAULTS = {f.name: f.default for f in dataclasses.fields(Phase)}
