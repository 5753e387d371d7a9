"""Scaling laws of FIT: iso-FLOP sweeps generated, trained, fitted and drawn.

A sweep varies width, depth, latents and patches of a config, each at several budgets of
training FLOPs (`sweep`); `runs` trains them by what `snapvideo train` does and measures
the loss on clips that no run saw (`validation`). `law` fits the loss as a function of
the FLOPs of a sample and of the number of samples, `forecast` says what that means for
larger budgets, `plot` draws it, `command` is the verb.
"""
