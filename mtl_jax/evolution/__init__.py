"""Growing a multitask network by evolution (muNet, mu2Net), as a library.

Gesmundo and Dean 2022, https://arxiv.org/abs/2205.12755 (mu2Net),
https://arxiv.org/abs/2205.10937 (muNet) and https://arxiv.org/abs/2209.07326
(mu2Net+).

  spaces      the published search spaces, as data
  networks    components, paths, and the cost of a path
  parents     chooses the parent of the next child
  mutations   chooses what a child shares with its parent, and what it changes
  training    trains the children of a generation in one compiled program
  augment     random crops and colours on the device

Nothing here reads or writes a file. All random choices use a NumPy generator
that the caller passes; equal generators give equal choices.
"""
