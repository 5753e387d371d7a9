"""The model of a run as a folder: `snapvideo export`, `verify` and `import`.

bundle          the folder: weights, config, checksums
export          writes it
programs        the StableHLO in it
standalone      runs that with JAX alone; copied into bundles as run.py
model_card      its README
verify          compares its outputs with those of the run
import_bundle   begins a run with its weights
"""
