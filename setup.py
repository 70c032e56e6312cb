"""The packages; everything else stands in setup.cfg.

The configs lie beside the package in a checkout, and in it where it is
installed, so that they are found by name from any folder.
"""

import setuptools

setuptools.setup(
    packages=[*setuptools.find_packages(include=['mtl_jax*']),
              'mtl_jax.configs'],
    package_dir={'mtl_jax.configs': 'configs'})
