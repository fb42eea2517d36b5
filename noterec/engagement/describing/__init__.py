"""What pairs look like, so that bounds, weighting and length are chosen with open eyes."""
