"""Scores generated clips with the networks and the rules that papers use.

`evaluate` finds the `clips`, crops and preprocesses them (`resize`, `preprocess`), runs
them through the networks (`nets`, `features`) and accumulates statistics (`stats`) by
shard (`scoring`, `shards`). `frechet` and `results` turn statistics into values with
their provenance; `settings` has the options, `tokenizer` is CLIP's.

`weights` converts published checkpoints, `protocols` are the paper's evaluations,
`pages` the gallery and the human study, and `shapes` measures how often a model of
moving shapes obeys its prompts.
"""
