"""Notes and datasets: reading, importing, checking, and the synthetic platform. The first stage of the road."""
