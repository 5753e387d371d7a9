"""Scores of generated clips, by the networks and the rules that papers use.

`snapvideo evaluate` finds `clips`, prepares them (`preprocess`, `resize`), runs them
through the networks (`nets`, `features`) and keeps sums (`stats`) by shard (`scoring`,
`shards`); `frechet` and `results` make numbers of them, each with what it depends on
(`settings`). `convert` makes our weights of others' (`checkpoints` reads their files,
`layouts` knows their names); `selfcheck` runs published numbers. `command` is the verb
and `arguments` its options.
"""


def run(arguments) -> None:
    """`snapvideo evaluate`."""
    # Not before it is called: the command line imports this package for its options.
    from snapvideo_jax.evaluate import command

    command.run(arguments)
