"""A generated data set of moving shapes, and the judge of clips of it."""
