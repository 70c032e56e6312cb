"""Edge-popup on GEM's ResNet-18, written in PyTorch as a user would."""

import numpy as np
import torch
from torch.nn import functional


class TopK(torch.autograd.Function):
  """The mask of the `count` largest |scores|; the gradient passes through."""

  @staticmethod
  def forward(ctx, magnitudes, count):
    del ctx
    mask = torch.zeros_like(magnitudes).flatten()
    mask[magnitudes.flatten().topk(count, sorted=False).indices] = 1
    return mask.view_as(magnitudes)

  @staticmethod
  def backward(ctx, gradient):
    del ctx
    return gradient, None


class Masked(torch.nn.Module):
  """A frozen kernel [out, in, h, w] and its trained scores."""

  def __init__(self, kernel, scores, count: int):
    super().__init__()
    self.kernel = _tensor(kernel)
    self.scores = torch.nn.Parameter(_tensor(scores))
    self.count = count

  def forward(self, x, stride: int = 1):
    kernel = self.kernel * TopK.apply(self.scores.abs(), self.count)
    return functional.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2)


class ResNet(torch.nn.Module):
  """`models.resnet.GEMResNet18`, in training."""

  def __init__(self, backbone, scores, counts):
    super().__init__()
    self.layers = torch.nn.ModuleDict({
        name: Masked(backbone[name], scores[name], counts[name])
        for name in backbone})
    self.norms = torch.nn.ModuleDict({
        name: torch.nn.BatchNorm2d(layer.kernel.shape[0], affine=False)
        for name, layer in self.layers.items() if name != 'classifier'})

  def _normed(self, name, x, stride=1):
    return self.norms[name](self.layers[name](x, stride))

  def forward(self, x):
    x = functional.relu(self._normed('stem', x))
    for name in (f'stage{stage}_block{block}' for stage in range(1, 5)
                 for block in (1, 2)):
      stride = 2 if name.endswith('block1') and name[5] != '1' else 1
      y = functional.relu(self._normed(f'{name}_conv1', x, stride))
      y = self._normed(f'{name}_conv2', y)
      if f'{name}_shortcut' in self.layers:
        x = self._normed(f'{name}_shortcut', x, stride)
      x = functional.relu(x + y)
    x = functional.avg_pool2d(x, x.shape[-1])
    return self.layers['classifier'](x).flatten(1)


def _tensor(array):
  return torch.tensor(np.asarray(array))


def to_torch(tree) -> dict[str, np.ndarray]:
  """Flax kernels as [out, in, h, w], by their names joined with '_'."""
  found = {}
  for name, entry in tree.items():
    if 'kernel' in entry:
      kernel = np.asarray(entry['kernel'])
      kernel = kernel[None, None] if kernel.ndim == 2 else kernel
      found[name] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
    else:
      found |= {f'{name}_{inner}': kernel
                for inner, kernel in to_torch(entry).items()}
  return found


def make_run(backbone, scores, counts, images, labels, channels_last: bool,
             compiled: bool, threads: int = 2, learning_rate: float = 1e-3,
             weight_decay: float = 1e-4):
  """A function that takes one step per batch; each call continues the last.

  Args:
    backbone, scores: Flax trees of kernels.
    counts: by the names of `to_torch`, the number of weights kept.
    images: float32 [steps, batch, H, W, C].
    labels: int [steps, batch].
    channels_last: memory format of images and kernels; else nchw.
    compiled: the whole step under `torch.compile`.
    threads: of PyTorch, set again by each call.
    learning_rate, weight_decay: of Adam.

  Returns:
    run() -> list of losses.
  """
  form = torch.channels_last if channels_last else torch.contiguous_format
  net = ResNet(to_torch(backbone), to_torch(scores), counts)
  net.to(memory_format=form)
  for layer in net.layers.values():
    layer.kernel = layer.kernel.to(memory_format=form)
  optimizer = torch.optim.Adam(net.parameters(), learning_rate,
                               weight_decay=weight_decay, foreach=True)
  batches = [(_tensor(x).permute(0, 3, 1, 2).contiguous(memory_format=form),
              _tensor(y).long()) for x, y in zip(images, labels)]

  def step(x, y):
    optimizer.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()

  call = torch.compile(step) if compiled else step

  def run():
    torch.set_num_threads(threads)
    return torch.stack([call(x, y).clone() for x, y in batches]).tolist()
  return run
