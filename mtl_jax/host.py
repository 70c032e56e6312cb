"""Work for the host's CPU, whatever else computes."""

import jax


def on_cpu():
  """A context in which JAX computes on this process's CPU.

  Raises:
    ValueError: JAX may not use the CPU.
  """
  try:
    device = jax.local_devices(backend='cpu')[0]
  except RuntimeError as error:
    raise ValueError(
        f'JAX_PLATFORMS={jax.config.jax_platforms} leaves out the CPU, on '
        'which backbones are drawn; unset it, or add the CPU at its end: '
        f'JAX_PLATFORMS={jax.config.jax_platforms},cpu') from error
  return jax.default_device(device)
