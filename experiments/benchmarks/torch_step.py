"""The threshold supermask step, written in PyTorch as a user would."""

import numpy as np
import torch
from torch.nn import functional


class Threshold(torch.autograd.Function):
  """The mask of scores that are at least 0; the gradient passes through."""

  @staticmethod
  def forward(ctx, scores):
    del ctx
    return (scores >= 0).to(scores.dtype)

  @staticmethod
  def backward(ctx, gradient):
    del ctx
    return gradient


class Net(torch.nn.Module):
  """Dense layers with frozen weights [out, in] and trained scores."""

  def __init__(self, weights, scores, device):
    super().__init__()
    to_tensor = lambda w: torch.tensor(np.ascontiguousarray(np.asarray(w).T),
                                       device=device)
    self.weights = [to_tensor(w) for w in weights]
    self.scores = torch.nn.ParameterList(
        [torch.nn.Parameter(to_tensor(s)) for s in scores])

  def forward(self, x):
    for i, (weight, scores) in enumerate(zip(self.weights, self.scores)):
      if i:
        x = functional.relu(x)
      x = functional.linear(x, weight * Threshold.apply(scores))
    return x


def make_run(weights, scores, images, labels, compiled: bool | str,
             threads: int = 2, device: str = 'cpu'):
  """A function that takes one step per batch; each call continues the last.

  Args:
    weights: list of [in, out] arrays.
    scores: list of [in, out] arrays.
    images: float32 [steps, batch, ...].
    labels: int [steps, batch].
    compiled: the whole step under `torch.compile`; a string is its mode.
    threads: of PyTorch, set again by each call.
    device: of PyTorch. On 'cuda' products are TF32, as JAX's are by default.

  Returns:
    run() -> list of losses.
  """
  if device == 'cuda':
    torch.set_float32_matmul_precision('high')
  net = Net(weights, scores, device)
  optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-4, alpha=0.99,
                                  eps=1e-8, foreach=True)
  images = torch.tensor(np.asarray(images), device=device).flatten(2)
  labels = torch.tensor(np.asarray(labels), device=device).long()

  def step(x, y):
    optimizer.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()

  mode = compiled if isinstance(compiled, str) else None
  call = torch.compile(step, mode=mode) if compiled else step

  def run():
    torch.set_num_threads(threads)
    # A graph's output is overwritten by its next run.
    return torch.stack([call(x, y).clone() for x, y in zip(images, labels)]
                       ).tolist()
  return run
