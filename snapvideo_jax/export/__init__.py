"""A run's model taken away: `snapvideo export`, `verify` and `import`.

`bundle` is the folder, `programs` the StableHLO in it and `alone` what runs those with
JAX alone, `model_card` its README. `command`, `verify` and `importing` are the verbs.
"""
