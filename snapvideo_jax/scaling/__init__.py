"""Scaling laws of FIT from iso-FLOP sweeps: `snapvideo scaling`.

- `sweep`: varies width, depth, latents and patches of a config at several budgets of
  training FLOPs
- `runs`: trains the runs; `validate`: measures their loss on held-out clips
- `law`: fits the loss as a function of the FLOPs of a sample and the number of samples
- `extrapolate`: the best size at larger budgets; `plot`: table and figure
"""
