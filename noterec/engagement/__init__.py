"""From the engagement log to related pairs, and splits from which nothing leaks."""
