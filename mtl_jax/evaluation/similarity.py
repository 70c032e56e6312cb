"""Similarity of tasks: similarity of representations, ablation and probes.

Linear CKA is that of Kornblith et al. 2019, https://arxiv.org/abs/1905.00414.
The suite follows the claims of PaRT (Paknezhad et al. 2022,
https://arxiv.org/abs/2201.09534), whose published code has no such analysis.
"""

import jax
import numpy as np

from mtl_jax import messages
from mtl_jax import trees
from mtl_jax.evaluation import entries

Tree = trees.Tree


def linear_cka(x, y, unbiased: bool = True) -> float:
  """Linear CKA of two representations of the same n inputs; 1 if equal.

  |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) of the column-centred features. Rotations
  and a common factor change nothing; NaN if one representation is constant.

  If there are as many features as inputs, this biased estimate is far from 0
  even for independent features: 0.51 for 512 each on 500 images. The unbiased
  estimate replaces each of the three norms by its U-statistic (Song et al.
  2012, HSIC_1). For independent features it is 0 on average, and may be a
  little negative.

  Args:
    x: features [n, p].
    y: features [n, q] of the same inputs.
    unbiased: which estimate; the unbiased one is NaN for fewer than 4 inputs.

  Raises:
    ValueError: the inputs are not two matrices with equal numbers of rows.

  >>> x = np.array([[1., 2.], [0., 1.], [4., 0.], [1., 5.]])
  >>> round(linear_cka(x, 3 * x[:, ::-1]), 6)
  1.0
  """
  messages.check_switch(unbiased, 'unbiased')
  x, y = entries.floats(x, 'x'), entries.floats(y, 'y')
  if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
    raise ValueError('CKA compares features [n, p] and [n, q] of the same n '
                     f'inputs; got {list(x.shape)} and {list(y.shape)}')
  x, y = map(_centred, (x, y))
  if unbiased:
    product, *own = (_hsic(a, b) for a, b in ((x, y), (x, x), (y, y)))
    scale = np.sqrt(own[0] * own[1]) if min(own) > 0 else 0.
    return float(product / scale) if scale > 0 else float('nan')
  if len(x) < max(x.shape[1], y.shape[1]):  # equal to that of Gram matrices
    x, y = x @ x.T, y @ y.T
    product, norms = np.sum(x * y), (np.linalg.norm(x), np.linalg.norm(y))
  else:
    product = np.sum(np.square(y.T @ x))
    norms = np.linalg.norm(x.T @ x), np.linalg.norm(y.T @ y)
  scale = norms[0] * norms[1]
  return float(product / scale) if scale > 0 else float('nan')


def _centred(x: np.ndarray) -> np.ndarray:
  """Features less their means; exactly 0 if a feature is constant."""
  return np.where(np.all(x == x[:1], axis=0), 0., x - x.mean(axis=0))


def _hsic(x, y) -> float:
  """n (n - 3) times the unbiased estimate of HSIC, NaN for n < 4.

  Takes Gram matrices with a zero diagonal; see `linear_cka`.
  """
  n = len(x)
  if n < 4:
    return float('nan')
  k, m = x @ x.T, y @ y.T
  np.fill_diagonal(k, 0.)
  np.fill_diagonal(m, 0.)
  rows, columns = k.sum(0), m.sum(0)
  return (np.sum(k * m) + rows.sum() * columns.sum() / ((n - 1) * (n - 2))
          - 2. / (n - 2) * (rows @ columns))


def relation(features) -> np.ndarray:
  """Linear CKA of every pair of tasks on the same images, [T, T].

  1 on the diagonal.

  Args:
    features: [n, p] of each task's network on the same n images.
  """
  found = np.ones((len(features), len(features)))
  for a, x in enumerate(features):
    for b, y in enumerate(features[:a]):
      found[a, b] = found[b, a] = linear_cka(x, y)
  return found


def without(params: Tree, part: str) -> Tree:
  """A task's network with all leaves of one module set to 0.

  Args:
    params: parameters of the task's network.
    part: name of the module, such as 'level3/slot1'.

  Raises:
    ValueError: there is no such module.

  >>> without({'level1': {'slot0': {'w': 1.}, 'slot1': {}}}, 'level1/slot0')
  {'level1': {'slot0': {'w': 0.0}, 'slot1': {}}}
  """
  level, _, slot = part.partition('/')
  if slot not in params.get(level, {}):
    raise ValueError(f'the network has no module {part}')
  silent = jax.tree.map(lambda x: 0 * x, params[level][slot])
  return params | {level: params[level] | {slot: silent}}


def linear_probe(train, train_labels, test, test_labels) -> float:
  """Accuracy of logistic regression on frozen features.

  NaN if all training labels are of one class, as nothing can be fitted then.

  Args:
    train: features [n, p]; scaled to mean 0 and variance 1.
    train_labels: int [n].
    test: features [m, p].
    test_labels: int [m].
  """
  if len(np.unique(train_labels)) < 2:
    return float('nan')
  from sklearn import linear_model
  from sklearn import pipeline
  from sklearn import preprocessing
  model = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      linear_model.LogisticRegression(max_iter=1000))
  model.fit(np.asarray(train), np.asarray(train_labels))
  return float(model.score(np.asarray(test), np.asarray(test_labels)))
