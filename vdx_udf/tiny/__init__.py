"""vdx-tiny, the bundled CLIP: the pictures it learns from, how it is trained and how well it does."""
