"""Captions to clips, from Python and by the verbs `sample`, `extend`, `search_noise`.

sample           one stage or two: the function behind `snapvideo sample`
options          typed options of all verbs that sample
loading          a run's settings and weights, and the guiding model
guidance_options guidance that the options ask for
generator        the jitted sampler
clips            clips of one network
cascade          small clips from captions, large clips from small ones
long_video       videos of any length, and known frames
noise_search     the best noise level of an upsampler's small clips
inputs           clips and frames to start from
outputs          folders of clips, contact sheets
sheets           sample sheets during training
"""
