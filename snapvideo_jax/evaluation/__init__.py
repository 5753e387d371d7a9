"""Scores of generated clips, by the networks and the rules that papers use.

`snapvideo evaluate` finds `clips`, prepares them (`preprocess`, `resize`), runs them
through the networks (`nets`, `features`) and keeps sums (`stats`) by shard (`scoring`,
`shards`); `frechet` and `results` make numbers of them, each with what it depends on
(`settings`). `convert` makes our weights of others' (`checkpoints` reads their files,
`layouts` knows their names); `selfcheck` runs published numbers. `command` is the verb.
"""
