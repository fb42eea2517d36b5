"""What the encoder sees: a vision model (`tower`), visual tokens for the prompt (`connector`), late fusion (`fusion`), and the
notes' pictures as the vision model takes them in, each distinct one computed once (`gallery`, `cache`)."""
