"""The paper's evaluations as data: which clips, which metrics, and the paper's values.

`settings` has the protocols, `prompts` and `ucf101` their prompts; `generate` samples
the clips and `score` scores them, connected only by a manifest; `curves` plots sweeps.
"""
