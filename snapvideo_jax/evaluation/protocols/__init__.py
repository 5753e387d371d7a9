"""The paper's evaluations as data: what is made, how it is scored, what came out there.

`settings` holds the protocols, `prompts` what they ask for, `generate` makes clips and
`score` scores them; a manifest is all that the two share. `curves` draws the sweeps.
"""
