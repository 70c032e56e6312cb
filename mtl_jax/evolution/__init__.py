"""Growing a multitask network by evolution, as a library (muNet, mu2Net).

Gesmundo and Dean 2022, https://arxiv.org/abs/2205.12755 (mu2Net),
https://arxiv.org/abs/2205.10937 (muNet) and https://arxiv.org/abs/2209.07326
(mu2Net+).

  spaces      the published search spaces, as data
  networks    components, paths, and what a path costs
  parents     which path gets the next child
  mutations   what a child takes from its parent, and what it changes
  training    children of a generation in one compiled program
  augment     random crops and colours on the device

Nothing here reads or writes a file. All random choices come from a NumPy
generator that the caller gives; calls with equal generators choose alike.
"""
