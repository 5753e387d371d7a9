"""Sampling from Python and by `snapvideo sample`: one stage or a cascade of two."""

from snapvideo_jax.sampling.cascade import sample_cascade
from snapvideo_jax.sampling.clips import sample_clips
from snapvideo_jax.sampling.options import SampleOptions
from snapvideo_jax.sampling.outputs import Output


def sample(options: SampleOptions) -> Output:
    """Samples clips of captions, and writes them to a folder.

    Clips that the folder already has are not sampled again.

    Args:
      options: run, captions, folder, sampler.

    Returns:
      The folder of clips: `Output.read` gives the frames of a clip, ``sheet`` is the
      path of a GIF of all of them.

    Raises:
      ValueError: an option is wrong, the run has no checkpoint, or the folder holds
        clips that were sampled with other settings.
    """
    return sample_cascade(options) if options.cascade else sample_clips(options)
