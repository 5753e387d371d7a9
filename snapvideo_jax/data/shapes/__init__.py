"""A generated data set of moving shapes, and the classifier of its clips."""
