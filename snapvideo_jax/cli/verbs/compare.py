"""`snapvideo compare`: prints two comparable results side by side."""

import argparse

from snapvideo_jax.evaluation.results import compare, read_result


def run(arguments: argparse.Namespace) -> None:
    one, other = arguments.one, arguments.other
    rows = compare(one, other)
    is_comparable = all(read_result(x).get("comparable") for x in (one, other))
    print(f"{'metric':<10}{'A':>12}{'B':>12}{'B - A':>12}  samples")
    for name, ours, theirs in rows:
        a, b = ours["value"], theirs["value"]
        print(f"{name:<10}{a:>12.6g}{b:>12.6g}{b - a:>12.4g}  {ours['n']}")
    print(f"A {one}\nB {other}")
    if not is_comparable:
        print("RANDOM FEATURES: a difference only shows that the clips differ.")
