"""Input and output: the lowest room, without JAX.

captions        fields of captions.jsonl
errors          errors that stop a run, and exit codes
files           atomic writes, checksums
json_lines      JSON Lines, metrics as JSON
media, mp4      clips as MP4, GIF and PNG; contact sheets
messages        "did you mean", sizes in bytes
npz             files of NumPy arrays
options         files of prompts
progress        progress bars and log lines
resume          comparison of settings when a command resumes
shipped         configs and plans that are installed with the package
"""
