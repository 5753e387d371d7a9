"""What --help tells of verbs beside their options."""

REPLAY_HELP = """\
N is counted as metrics.jsonl counts. The state before it comes from the newest
checkpoint that is kept, and the steps between are done again. Writes sheet.gif (the
clip, the network's input, the denoised clip of each sample) and replay.json. Exits with
1 where batch, loss or gradient are not those of the ledger. --config. changes what a
resumed run may change, such as --config.mesh.fsdp or --config.data.root.
"""

REHEARSE_HELP = """\
Starts `snapvideo train` on this machine's CPU, in processes that meet over the
loopback, and does to it what happens on pods: sigterm, sigkill (at moments of chance),
save_kill (while a checkpoint is written), truncated (a damaged checkpoint),
lost_process, full_disk, slow_loader, other_count (of processes, on restart). Each run
has to end as an undisturbed one does, bit by bit on the same processes. Use your own
data, and a config that is small enough:

  --config configs/clips.py --config.data.root=FOLDER --config.model.blocks=1 --out OUT
"""
