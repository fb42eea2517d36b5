"""The encoder: prompt, backbone, readout, head, and the losses that train it."""
