"""From captions to clips: the generator, cascades, long videos, noise search."""
